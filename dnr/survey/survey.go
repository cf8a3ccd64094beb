// Package survey asks the routers and DHCP servers of a link what they hand out, as a host that has just joined it
// would, and says of each message what is wrong with it and what known clients make of it. See RFC 9463.
//
// It requests no lease, configures nothing, and connects to none of the resolvers: whether these work is for its caller
// to try. Package dnr reads the options, and package link has the sockets.
//
// `cfrd dnr check` calls Run once, and Clients for each message. Run has a goroutine of its own that receives, which
// has ended when it returns. Results are the caller's; Clients is pure and may be called from any goroutine.
package survey

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/internal/link"
)

// DefaultWindow is for how long Run collects by default. Routers answer a solicitation within 0.5 s, but not sooner
// than 3 s after their last advertisement. See RFC 4861, Section 6.2.6.
const DefaultWindow = 5 * time.Second

// maxWindow bounds the time of a survey, which is no monitor: it sends nothing after the first seconds.
const maxWindow = 10 * time.Minute

// Bounds of what a link can make Run keep. Messages beyond them are counted.
const (
	maxMessages  = 128     // different messages
	maxOctets    = 1 << 20 // of all of them together
	maxInstances = 64      // of one message
	maxFindings  = 16      // of one instance
	maxText      = 240     // characters of one finding
	maxServers   = 16      // addresses of resolvers without encryption in one message
)

// Config is what Run needs.
type Config struct {
	// Interface is the name of the link's network interface.
	Interface string
	// Window is for how long replies are collected, up to 10 min; 0 means DefaultWindow.
	Window time.Duration
}

// Result is what the servers of one link hand out.
type Result struct {
	// Message are their messages in the order of arrival. One that came again is there once.
	Messages []Message
	// Unasked lists the requests that could not be sent, and why.
	Unasked []string
	// Dropped counts messages that were not read because there were too many.
	Dropped int
	// Link is what is known of the interface.
	Link Link
}

// Link is a network interface of this host.
type Link struct {
	Interface string       // its name
	Addresses []netip.Addr // usable ones of this host on it, with the link-local one
}

// Message is a message of a router or DHCP server that can carry resolvers.
type Message struct {
	By     dnr.Form
	Kind   string     // "advertisement", "reply", "offer" or "ack"
	Server netip.Addr // its source address, without zone
	// ID is the identifier of a DHCP server: its DUID in hexadecimal, or its address; "" if the message has none.
	ID        string
	Copies    int              // how often it was received
	Findings  dnr.Findings     // of the message itself; offsets are from its start
	Instances []dnr.Inspection // of the Encrypted DNS options in it
	Omitted   int              // instances that were not read because there were too many
	Resolvers []netip.Addr     // resolvers that it hands out for use without encryption
	// Interval is the longest time between Router Advertisements, or 0 if they do not carry it. See RFC 6275, Section 7.3.
	Interval time.Duration
}

// Err returns why hosts ignore the whole message, or nil if they do not.
func (h Message) Err() error { return h.Findings.Err() }

// Codes of findings about a message. The first group makes hosts ignore it.
const (
	CodeHopLimit = "hop-limit"
	codeSource   = "source"
	codeChecksum = "checksum"
	codeMessage  = "message"
	codeOptions  = "options"
	codeServerID = "server-id"
	codeClientID = "client-id"

	codeFragment = "fragment"
	// codeMore stands for findings of an instance that are left out, because there were too many.
	codeMore = "more"
)

// ErrOffLink is wrapped by findings about messages that were not sent on this link.
var ErrOffLink = errors.New("survey: message does not come from this link")

// errMessage is wrapped by all other findings about a message.
var errMessage = errors.New("survey: message is malformed")

// Run asks the routers and DHCP servers of a link what they hand out, as a host would that has just joined it: by
// Router Solicitation, by the Information-request of DHCPv6, and by the DHCPINFORM of DHCPv4, or its DHCPDISCOVER if
// the interface has no address or there is no answer. It requests no lease, and changes nothing. It collects messages
// for the whole window.
//
// Requests that cannot be sent on this link are in Result.Unasked. The error is about the interface or the rights of
// the process, or that of ctx.
func Run(ctx context.Context, cfg Config) (Result, error) {
	window := cfg.Window
	if window == 0 {
		window = DefaultWindow
	}
	if window < 0 || window > maxWindow {
		return Result{}, fmt.Errorf("survey: listen for %s; want up to %s", window, maxWindow)
	}
	l, err := link.Look(cfg.Interface)
	if err != nil {
		return Result{}, err
	}
	if why := l.NotReady(); why != "" {
		return Result{}, fmt.Errorf("listen on %q: %s", cfg.Interface, why)
	}
	conn, err := link.OpenIP(l)
	if err != nil {
		return Result{}, fmt.Errorf("listen on %s: %w", l.Name, err)
	}
	return newSurveyor(l).run(ctx, conn, window)
}

// surveyor collects the messages of one Run. It belongs to the goroutine that calls run.
type surveyor struct {
	link      link.State
	requester requester
	result    Result
	octets    int                // of all Messages of the result
	seen      map[messageKey]int // index in Messages of the result
}

// messageKey identifies a message, which may be received several times.
type messageKey struct {
	from netip.Addr
	data string
}

func newSurveyor(l link.State) *surveyor {
	addrs := l.Usable()
	if l.LinkLocal.IsValid() {
		addrs = append(addrs, l.LinkLocal)
	}
	result := Result{Link: Link{Interface: l.Name, Addresses: addrs}}
	return &surveyor{link: l, requester: newRequester(l), result: result, seen: make(map[messageKey]int)}
}

// run asks and collects until the window or ctx ends, and closes conn.
func (s *surveyor) run(ctx context.Context, conn link.IPConn, window time.Duration) (Result, error) {
	packets, failed := make(chan link.IPPacket), make(chan error, 1)
	ctx, cancel := context.WithTimeoutCause(ctx, window, errWindow)
	defer cancel()
	go readPackets(ctx, conn, packets, failed)
	err := s.collect(ctx, conn, packets, failed)
	err = errors.Join(err, conn.Close())
	cancel()
	for range packets { // until readPackets has ended
	}
	return s.result, err
}

// errWindow is the cause of the end of a survey without errors.
var errWindow = errors.New("survey: window is over")

// readPackets passes on the packets that arrive, until conn is closed or fails or ctx is done.
func readPackets(ctx context.Context, conn link.IPConn, packets chan<- link.IPPacket, failed chan<- error) {
	defer close(packets)
	for {
		p, err := conn.Receive()
		if err != nil {
			failed <- err
			return
		}
		select {
		case packets <- p:
		case <-ctx.Done():
			return
		}
	}
}

func (s *surveyor) collect(ctx context.Context, conn link.IPConn, packets <-chan link.IPPacket, failed <-chan error) error {
	start := time.Now()
	next := time.NewTimer(0)
	defer next.Stop()
	schedule := requestTimes
	for {
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, errWindow) {
				return err
			}
			return nil
		case err := <-failed:
			return err
		case p := <-packets:
			s.take(p)
		case <-next.C:
			s.ask(conn, schedule[0])
			if schedule = schedule[1:]; len(schedule) > 0 {
				next.Reset(time.Until(start.Add(schedule[0])))
			}
		}
	}
}

// ask sends the requests that are due at a time after the start.
func (s *surveyor) ask(conn link.IPConn, at time.Duration) {
	for _, q := range s.requester.requests(at, s.answered) {
		why := q.unasked
		if why == "" {
			if err := conn.Send(q.data); err != nil {
				why = err.Error()
			}
		}
		if text := q.by.String() + ": " + why; why != "" && !slices.Contains(s.result.Unasked, text) {
			s.result.Unasked = append(s.result.Unasked, text)
		}
	}
}

// answered reports whether a message was received by f.
func (s *surveyor) answered(f dnr.Form) bool {
	return slices.ContainsFunc(s.result.Messages, func(h Message) bool { return h.By == f })
}

// take adds the message in a packet, if there is one.
func (s *surveyor) take(p link.IPPacket) {
	d, ok := link.ParsePacket(p)
	if !ok {
		return
	}
	key := messageKey{d.From, string(d.Data)}
	if i, ok := s.seen[key]; ok {
		s.result.Messages[i].Copies++
		return
	}
	h, ok := s.requester.read(d)
	if !ok {
		return
	}
	if len(s.result.Messages) >= maxMessages || s.octets+len(d.Data) > maxOctets {
		s.result.Dropped++
		return
	}
	s.octets += len(d.Data)
	s.seen[key] = len(s.result.Messages)
	h.Copies = 1
	h.bound()
	s.result.Messages = append(s.result.Messages, h)
}

// bound shortens the lists and texts that a hostile server can make long.
func (h *Message) bound() {
	if n := len(h.Instances) - maxInstances; n > 0 {
		h.Instances, h.Omitted = slices.Clip(h.Instances[:maxInstances]), h.Omitted+n
	}
	for i := range h.Instances {
		h.Instances[i].Findings = boundFindings(h.Instances[i].Findings)
	}
	h.Findings = boundFindings(h.Findings)
	h.Resolvers = h.Resolvers[:min(len(h.Resolvers), maxServers)]
}

// boundFindings returns the worst findings, with texts of at most maxText characters.
func boundFindings(list []dnr.Finding) []dnr.Finding {
	// Errors first: they decide what clients do.
	slices.SortStableFunc(list, func(a, b dnr.Finding) int { return int(b.Severity) - int(a.Severity) })
	if n := len(list) - maxFindings; n > 0 {
		worst := list[maxFindings].Severity
		list = append(list[:maxFindings:maxFindings], dnr.Finding{
			Code: codeMore, Severity: worst, Text: fmt.Sprintf("%d more findings", n),
			Err: list[maxFindings].Err,
		})
	}
	for i, f := range list {
		if runes := []rune(f.Text); len(runes) > maxText {
			list[i].Text = string(runes[:maxText]) + "…"
		}
	}
	return list
}
