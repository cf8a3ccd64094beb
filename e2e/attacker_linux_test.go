package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
)

// attackerRole is the variable that makes the test binary an attacker instead of running tests. An attacker is a
// process of its own, in its own namespace and of the lowest priority: the lab shares its processors with it.
const attackerRole = "E2E_ATTACKER"

// assault is what an attacker does, as JSON in attackerRole. Everything in it is bounded.
type assault struct {
	Kind    string   // a key of assaults
	Sources []string // addresses to attack from, in turn
	Target  string   // address of the resolver

	Name  string // asked for, with the number of the query in place of %d
	Type  uint16
	First int // number of the first query

	Count  int           // queries, or connections from each source on each transport
	Rate   int           // of them a second
	Ways   []string      // transports of connections: tcp, dot, doh or doq
	Period time.Duration // between two queries on a connection
	For    time.Duration // how long connections are held
}

// tally is what an attacker got, as JSON on its standard output.
type tally struct {
	Sent, Truncated int            // queries and answers of a flood
	Rcodes          map[string]int // of its answers
	Slowest         time.Duration  // of them, if the names are numbered
	Open, Refused   int            // connections: the most at one time, and how many ended early or were refused
}

var assaults = map[string]func(assault) tally{"flood": flood, "hold": hold, "stall": stallHTTP2}

// attack runs one assault and prints what it got.
func attack(spec string) int {
	var a assault
	if err := json.Unmarshal([]byte(spec), &a); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := json.NewEncoder(os.Stdout).Encode(assaults[a.Kind](a)); err != nil {
		return 1
	}
	return 0
}

// at returns the resolver's address for a client address: of the same family.
func (a assault) at(source, port string) (local net.IP, target string) {
	local = net.ParseIP(source)
	host := a.Target
	if host == "" {
		host = resolver4
		if local.To4() == nil {
			host = resolver6
		}
	}
	return local, net.JoinHostPort(host, port)
}

// flooder sends queries over UDP and counts what comes back.
type flooder struct {
	assault
	mu    sync.Mutex // guards the following
	got   tally
	began []time.Time // when each query was sent
}

// flood sends queries from all sources in turn, and reads answers until a while after the last one.
func flood(a assault) tally {
	f := &flooder{assault: a, got: tally{Rcodes: map[string]int{}}, began: make([]time.Time, a.Count)}
	var readers sync.WaitGroup
	var socks []net.Conn
	for _, source := range a.Sources {
		local, target := a.at(source, "53")
		c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: local}}).Dial("udp", target)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		socks = append(socks, c)
		readers.Go(func() { f.read(c) })
	}
	a.pace(func(i int) { f.send(socks[i%len(socks)], i) })
	for _, c := range socks {
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
	}
	readers.Wait()
	return f.got
}

func (f *flooder) send(c net.Conn, i int) {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(nthName(f.Name, f.First+i)), f.Type)
	m.SetEdns0(1232, false)
	b, err := m.Pack()
	if err != nil {
		return
	}
	f.mu.Lock()
	f.began[i] = time.Now()
	f.got.Sent++
	f.mu.Unlock()
	c.Write(b)
}

// read counts answers until the deadline of c. Errors that ICMP brings are none.
func (f *flooder) read(c net.Conn) {
	buf := make([]byte, 65536)
	for {
		n, err := c.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		m := new(dns.Msg)
		if err == nil && m.Unpack(buf[:n]) == nil && len(m.Question) == 1 {
			f.count(m)
		}
	}
}

func (f *flooder) count(m *dns.Msg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got.Rcodes[dns.RcodeToString[m.Rcode]]++
	if m.Truncated {
		f.got.Truncated++
	}
	if i := numberOf(f.Name, m.Question[0].Name) - f.First; i >= 0 && i < len(f.began) {
		f.got.Slowest = max(f.got.Slowest, time.Since(f.began[i]))
	}
}

// pace calls f for each of a.Count numbers, a.Rate times a second.
func (a assault) pace(f func(i int)) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	begin := time.Now()
	for i := 0; i < a.Count; {
		due := int(time.Since(begin).Seconds() * float64(a.Rate))
		for ; i < min(due, a.Count); i++ {
			f(i)
		}
		<-tick.C
	}
}

// nthName puts n into a name pattern in place of %d, and n modulo 100 in place of #.
func nthName(pattern string, n int) string {
	pattern = strings.ReplaceAll(pattern, "#", strconv.Itoa(n%100))
	if !strings.Contains(pattern, "%") {
		return pattern
	}
	return fmt.Sprintf(pattern, n)
}

// numberOf is the inverse of nthName for patterns with nothing but %d, and -1 for other names.
func numberOf(pattern, name string) int {
	var n int
	if _, err := fmt.Sscanf(strings.TrimSuffix(name, "."), pattern, &n); err != nil {
		return -1
	}
	return n
}

// hold opens connections from every source on every transport and asks on each again and again, so that none is idle.
// A connection that is closed or refused is opened anew.
func hold(a assault) tally {
	ctx, cancel := context.WithTimeout(context.Background(), a.For)
	defer cancel()
	h := &holding{assault: a}
	var work sync.WaitGroup
	for range a.Count {
		for _, source := range a.Sources {
			for _, way := range a.Ways {
				work.Go(func() { h.keep(ctx, source, way) })
				sleep(ctx, time.Second/time.Duration(a.Rate))
			}
		}
	}
	work.Wait()
	return tally{Open: h.most, Refused: h.refused}
}

// holding counts the connections that are held.
type holding struct {
	assault
	mu                  sync.Mutex // guards the following
	open, most, refused int
}

func (h *holding) keep(ctx context.Context, source, way string) {
	for ctx.Err() == nil {
		err := h.holdOne(ctx, source, way, h.opened)
		if err != nil && ctx.Err() == nil {
			h.mu.Lock()
			h.refused++
			h.mu.Unlock()
		}
		sleep(ctx, h.Period)
	}
}

// opened counts a connection that was opened, or with -1 one that ended.
func (h *holding) opened(by int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open += by
	h.most = max(h.most, h.open)
}

// sleep waits for d or until ctx is done.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// holdOne holds one connection until ctx is done or the server ends it; it calls opened with 1 and at the end with -1.
func (a assault) holdOne(ctx context.Context, source, way string, opened func(int)) error {
	ask, end, err := a.open(ctx, source, way)
	if err != nil {
		return err
	}
	defer end()
	if err := ask(); err != nil {
		return err
	}
	opened(1)
	defer opened(-1)
	for {
		sleep(ctx, a.Period)
		if ctx.Err() != nil {
			return nil
		}
		if err := ask(); err != nil {
			return err
		}
	}
}

// open opens one connection; ask asks on it.
func (a assault) open(ctx context.Context, source, way string) (ask func() error, end func(), err error) {
	msg := question(nthName(a.Name, a.First))
	conf := &tls.Config{InsecureSkipVerify: true, ServerName: adn}
	if way == "doq" {
		return a.openQUIC(ctx, source, msg, conf)
	}
	port := map[string]string{"tcp": "53", "dot": "853", "doh": "443"}[way]
	local, target := a.at(source, port)
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: local}, Timeout: 5 * time.Second}).DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, nil, err
	}
	if way != "tcp" {
		conf.NextProtos = []string{map[string]string{"dot": "dot", "doh": "http/1.1"}[way]}
		c = tls.Client(c, conf)
	}
	return func() error { return askOn(c, way, msg) }, func() { c.Close() }, nil
}

// askOn asks on a connection and waits for the answer, or for DoH for the beginning of it.
func askOn(c net.Conn, way string, msg []byte) error {
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if way != "doh" {
		if _, err := c.Write(framed(msg)); err != nil {
			return err
		}
		return wantAnswer(c)
	}
	const head = "POST /dns-query HTTP/1.1\r\nHost: " + adn + "\r\nContent-Type: application/dns-message\r\nContent-Length: "
	if _, err := fmt.Fprintf(c, head+"%d\r\n\r\n%s", len(msg), msg); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 4096))
	return err
}

func (a assault) openQUIC(ctx context.Context, source string, msg []byte, conf *tls.Config) (ask func() error, end func(), err error) {
	_, target := a.at(source, "853")
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(source), 0)))
	if err != nil {
		return nil, nil, err
	}
	qt := &quic.Transport{Conn: pc}
	closeAll := func() { qt.Close(); pc.Close() }
	conf.NextProtos = []string{"doq"}
	dialing, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := qt.Dial(dialing, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(target)), conf, nil)
	if err != nil {
		closeAll()
		return nil, nil, err
	}
	ask = func() error {
		s, err := conn.OpenStream()
		if err != nil {
			return err
		}
		s.Write(framed(msg))
		s.Close()
		s.SetReadDeadline(time.Now().Add(5 * time.Second))
		return wantAnswer(s)
	}
	return ask, func() { conn.CloseWithError(0, ""); closeAll() }, nil
}
