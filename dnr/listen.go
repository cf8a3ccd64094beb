package dnr

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// DefaultWindow is how long Listen collects if nothing else is said: routers answer a solicitation within 0.5 s, but not
// sooner than 3 s after their last advertisement. See RFC 4861, Section 6.2.6.
const DefaultWindow = 5 * time.Second

// maxWindow keeps a survey from being a monitor: nothing is sent after the first seconds.
const maxWindow = 10 * time.Minute

// Bounds of what a link can make Listen hold. Messages beyond them are counted.
const (
	maxHeard     = 128     // different messages
	maxOctets    = 1 << 20 // of all of them together
	maxInstances = 64      // of one message
	maxFindings  = 16      // of one instance
	maxText      = 240     // characters of one finding
	maxServers   = 16      // addresses of resolvers without encryption in one message
)

// ListenConfig is what Listen needs.
type ListenConfig struct {
	// Interface is the name of the link's network interface.
	Interface string
	// Window is how long answers are collected, up to 10 min; 0 means DefaultWindow.
	Window time.Duration
}

// Survey is what the servers of one link say of designated resolvers.
type Survey struct {
	// Heard are their messages in the order of arrival. One that came again is there once.
	Heard []Heard
	// Unasked says what could not be asked, and why.
	Unasked []string
	// Dropped counts messages that were not looked at, because there were too many.
	Dropped int
	// Link is what is known of the interface.
	Link Link
}

// Heard is a message by which a server tells hosts of the link about resolvers.
type Heard struct {
	By      Form
	Message string     // "advertisement", "reply", "offer" or "ack"
	Server  netip.Addr // where it came from, without zone
	// ID is what a DHCP server calls itself: its DUID in hexadecimal, or its address; "" if it does not say.
	ID        string
	Copies    int          // how often it came
	Findings  []Finding    // of the message itself; offsets are from its start
	Instances []Inspection // of the Encrypted DNS options in it
	Omitted   int          // instances that were not looked at, because there were too many
	Resolvers []netip.Addr // that it hands out for use without encryption
	// Interval is the longest time between Router Advertisements, if they say so, or 0. See RFC 6275, Section 7.3.
	Interval time.Duration
}

// Err returns why hosts ignore the whole message, or nil if they do not.
func (h Heard) Err() error {
	for _, f := range h.Findings {
		if f.Err != nil {
			return f.Err
		}
	}
	return nil
}

// Codes of findings about a message. The first group makes hosts ignore it.
const (
	CodeHopLimit = "hop-limit"
	CodeSource   = "source"
	CodeChecksum = "checksum"
	CodeMessage  = "message"
	CodeOptions  = "options"
	CodeServerID = "server-id"
	CodeClientID = "client-id"

	CodeFragment = "fragment"
	// CodeMore stands for findings of an instance that are left out, because there were too many.
	CodeMore = "more"
)

// Errors that findings about a message wrap.
var (
	ErrMessage = errors.New("dnr: message is malformed")
	ErrOffLink = errors.New("dnr: message does not come from this link")
)

// Listen asks the servers of a link what they hand out, as a host would that comes new to it: by Router Solicitation,
// by the Information-request of DHCPv6, and by the DHCPINFORM of DHCPv4, or its DHCPDISCOVER if the interface has no
// address or nobody answers. It requests no lease, and changes nothing. It collects what they say for the whole window.
//
// What cannot be asked on this link is in Survey.Unasked. The error is about the interface or the rights of the
// process, or that of ctx.
func Listen(ctx context.Context, cfg ListenConfig) (Survey, error) {
	window := cfg.Window
	if window == 0 {
		window = DefaultWindow
	}
	if window < 0 || window > maxWindow {
		return Survey{}, fmt.Errorf("dnr: listen for %s; want up to %s", window, maxWindow)
	}
	l, err := thisSystem().look(cfg.Interface)
	if err != nil {
		return Survey{}, err
	}
	if why := l.notReady(); why != "" {
		return Survey{}, fmt.Errorf("listen on %q: %s", cfg.Interface, why)
	}
	conn, err := openLink(l)
	if err != nil {
		return Survey{}, fmt.Errorf("listen on %s: %w", l.name, err)
	}
	return newSurveyor(l).run(ctx, conn, window)
}

// linkConn sends and receives IP packets on one link.
type linkConn interface {
	// receive waits for a packet, whose data it does not touch again.
	receive() (ipPacket, error)
	send(data []byte) error
	// Close makes receive return an error.
	Close() error
}

// surveyor collects for one Listen.
type surveyor struct {
	link   linkState
	asker  asker
	survey Survey
	octets int              // of what is in survey.Heard
	seen   map[heardKey]int // index in survey.Heard
}

// heardKey is the same for a message that comes again.
type heardKey struct {
	from netip.Addr
	data string
}

func newSurveyor(l linkState) *surveyor {
	link := Link{Interface: l.name, Addresses: l.usable()}
	if l.linkLocal.IsValid() {
		link.Addresses = append(link.Addresses, l.linkLocal)
	}
	return &surveyor{link: l, asker: newAsker(l), survey: Survey{Link: link}, seen: make(map[heardKey]int)}
}

// run asks and collects until the window or ctx ends, and closes conn.
func (s *surveyor) run(ctx context.Context, conn linkConn, window time.Duration) (Survey, error) {
	packets, failed := make(chan ipPacket), make(chan error, 1)
	ctx, cancel := context.WithTimeoutCause(ctx, window, errWindow)
	defer cancel()
	go readPackets(ctx, conn, packets, failed)
	err := s.collect(ctx, conn, packets, failed)
	err = errors.Join(err, conn.Close())
	cancel()
	for range packets { // until readPackets has ended
	}
	return s.survey, err
}

// errWindow says that everything went as it should.
var errWindow = errors.New("dnr: window is over")

// readPackets hands over what arrives, until conn is closed or fails.
func readPackets(ctx context.Context, conn linkConn, packets chan<- ipPacket, failed chan<- error) {
	defer close(packets)
	for {
		p, err := conn.receive()
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

func (s *surveyor) collect(ctx context.Context, conn linkConn, packets <-chan ipPacket, failed <-chan error) error {
	start := time.Now()
	next := time.NewTimer(0)
	defer next.Stop()
	schedule := askTimes
	for {
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); err != errWindow {
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

// ask sends what is due at a time after the start.
func (s *surveyor) ask(conn linkConn, at time.Duration) {
	for _, q := range s.asker.questions(at, s.answered) {
		why := q.unasked
		if why == "" {
			if err := conn.send(q.data); err != nil {
				why = err.Error()
			}
		}
		if text := q.by.String() + ": " + why; why != "" && !slices.Contains(s.survey.Unasked, text) {
			s.survey.Unasked = append(s.survey.Unasked, text)
		}
	}
}

// answered reports whether a server was heard by f.
func (s *surveyor) answered(f Form) bool {
	return slices.ContainsFunc(s.survey.Heard, func(h Heard) bool { return h.By == f })
}

// take adds what a packet says.
func (s *surveyor) take(p ipPacket) {
	d, ok := parsePacket(p)
	if !ok {
		return
	}
	key := heardKey{d.from, string(d.data)}
	if i, ok := s.seen[key]; ok {
		s.survey.Heard[i].Copies++
		return
	}
	h, ok := s.asker.read(d)
	if !ok {
		return
	}
	if len(s.survey.Heard) >= maxHeard || s.octets+len(d.data) > maxOctets {
		s.survey.Dropped++
		return
	}
	s.octets += len(d.data)
	s.seen[key] = len(s.survey.Heard)
	h.Copies = 1
	h.bound()
	s.survey.Heard = append(s.survey.Heard, h)
}

// bound cuts down what a hostile server could make long.
func (h *Heard) bound() {
	if n := len(h.Instances) - maxInstances; n > 0 {
		h.Instances, h.Omitted = slices.Clip(h.Instances[:maxInstances]), h.Omitted+n
	}
	for i := range h.Instances {
		h.Instances[i].Findings = boundFindings(h.Instances[i].Findings)
	}
	h.Findings = boundFindings(h.Findings)
	h.Resolvers = h.Resolvers[:min(len(h.Resolvers), maxServers)]
}

func boundFindings(list []Finding) []Finding {
	// Errors first: they decide what clients do.
	slices.SortStableFunc(list, func(a, b Finding) int { return int(b.Severity) - int(a.Severity) })
	if n := len(list) - maxFindings; n > 0 {
		worst := list[maxFindings].Severity
		list = append(list[:maxFindings:maxFindings], Finding{
			Code: CodeMore, Severity: worst, Text: fmt.Sprintf("%d more findings", n),
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
