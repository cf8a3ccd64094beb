package check

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"

	"github.com/cfrd-project/cfrd/ddr/svcb"
)

// steering looks at the answers for a name that is reached through the relay, and connects to the addresses. It cannot
// tell whether they are those of a relay.
func (c checker) steering(ctx context.Context) {
	if c.Steered == "" {
		c.skip("steered", "", "no name was given with --steered")
		return
	}
	addrs := c.steeredAddresses(ctx)
	if len(addrs) == 0 {
		return
	}
	c.hints(ctx, addrs)
	for i, a := range addrs {
		if i > 0 && a.Is4() == addrs[i-1].Is4() {
			continue // one of each family will do
		}
		relay := netip.AddrPortFrom(a, c.RelayPort)
		c.relayTCP(ctx, relay)
		c.relayQUIC(ctx, relay)
	}
}

// steeredAddresses asks for A and AAAA. A TTL above MaxTTL would let clients use an address that the relay has given up.
func (c checker) steeredAddresses(ctx context.Context) []netip.Addr {
	var addrs []netip.Addr
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		target := c.Steered + " " + dns.TypeToString[qtype]
		m, err := c.ask(ctx, c.Steered, qtype)
		if err != nil || m.rcode != dns.RcodeSuccess {
			c.fail("steered-addresses", target, "%s", outcomeOf(m, err))
			continue
		}
		c.judgeTTL(target, ofType(m.answer, qtype))
		for _, rr := range ofType(m.answer, qtype) {
			if a, ok := rr.addr(); ok {
				addrs = append(addrs, a)
			}
		}
	}
	if len(addrs) == 0 {
		c.fail("steered-addresses", c.Steered, "has no address at all")
	}
	return addrs
}

// outcomeOf says what came instead of a positive response.
func outcomeOf(m message, err error) string {
	if err != nil {
		return "no answer: " + err.Error()
	}
	return "answered with " + dns.RcodeToString[m.rcode]
}

// judgeTTL judges the TTL of steered records against MaxTTL.
func (c checker) judgeTTL(target string, records []record) {
	for _, rr := range records {
		if limit := uint32(c.MaxTTL.Seconds()); rr.ttl > limit {
			c.fail("steered-addresses", target, "TTL %d s is above the cap of %d s", rr.ttl, limit)
			return
		}
	}
	var list []string
	for _, rr := range records {
		if a, ok := rr.addr(); ok {
			list = append(list, a.String())
		}
	}
	if list != nil {
		c.ok("steered-addresses", target, "%s, TTL %d s", strings.Join(list, " "), records[0].ttl)
	}
}

// hints compares the HTTPS record with A and AAAA. Browsers use whichever comes first, so that a hint that is not among
// the addresses leads them around the relay.
func (c checker) hints(ctx context.Context, addrs []netip.Addr) {
	target := c.Steered + " HTTPS"
	m, err := c.ask(ctx, c.Steered, dns.TypeHTTPS)
	if err != nil || m.rcode != dns.RcodeSuccess {
		c.fail("steered-hints", target, "%s", outcomeOf(m, err))
		return
	}
	records := ofType(m.answer, dns.TypeHTTPS)
	if len(records) == 0 {
		c.skip("steered-hints", target, "no HTTPS record")
	}
	for _, rr := range records {
		r, err := svcb.Parse(rr.data)
		if err != nil {
			c.fail("steered-hints", target, "malformed: %v", err)
			continue
		}
		if t := dns.CanonicalName(r.Target); t != "." && t != c.Steered {
			addrs = c.lookup(ctx, t)
		}
		c.hintsOf(target, r, addrs)
	}
}

// hintsOf judges the hints of one HTTPS record by the addresses of its target.
func (c checker) hintsOf(target string, r svcb.Record, addrs []netip.Addr) {
	hints := hintsIn(r)
	for _, h := range hints {
		if !slices.Contains(addrs, h) {
			c.fail("steered-hints", target, "the hint %s is not among the addresses: clients that follow it bypass the relay", h)
			return
		}
	}
	_, ech := r.Value(svcb.KeyECH)
	c.ok("steered-hints", target, "%d hints, all among the addresses; ech present: %t", len(hints), ech)
}

// hintsIn returns the address hints of both families.
func hintsIn(r svcb.Record) []netip.Addr {
	var addrs []netip.Addr
	for key, size := range map[uint16]int{svcb.KeyIPv4Hint: 4, svcb.KeyIPv6Hint: 16} {
		v, _ := r.Value(key)
		for a := range slices.Chunk(v, size) {
			addr, _ := netip.AddrFromSlice(a)
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// relayTCP sends a ClientHello. Any answer in TLS, also an alert, proves that octets come through.
func (c checker) relayTCP(ctx context.Context, relay netip.AddrPort) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	client := Client{Addr: relay}
	conn, err := client.dial(ctx, "tcp")
	if unreachable(err) {
		c.skip("relay-tcp", relay.String(), "this host has no way there: %v", err)
		return
	}
	if err != nil {
		c.fail("relay-tcp", relay.String(), "no connection: %v", err)
		return
	}
	defer conn.Close()
	tc := tls.Client(conn, c.anyServer("h2", "http/1.1"))
	err = tc.HandshakeContext(ctx)
	var alert tls.AlertError
	switch {
	case err == nil:
		c.ok("relay-tcp", relay.String(), "answers for %s in %s", c.Steered,
			tls.VersionName(tc.ConnectionState().Version))
	case errors.As(err, &alert), isRemoteAlert(err):
		c.ok("relay-tcp", relay.String(), "TLS answers, with an alert: %v", err)
	default:
		c.fail("relay-tcp", relay.String(), "connects, but no TLS answers: %v", err)
	}
}

// anyServer returns a configuration that accepts every certificate: the question is only whether a server answers, and
// nothing secret is sent.
func (c checker) anyServer(alpn ...string) *tls.Config {
	return &tls.Config{ServerName: strings.TrimSuffix(c.Steered, "."), NextProtos: alpn, InsecureSkipVerify: true}
}

// isRemoteAlert reports whether err is a TLS alert of the other side.
func isRemoteAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// unreachable reports whether this host has no route or no address for a destination.
func unreachable(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

// relayQUIC does what relayTCP does over UDP. No answer is no failure, because many origins do not speak QUIC.
func (c checker) relayQUIC(ctx context.Context, relay netip.AddrPort) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	conn, err := quic.DialAddr(ctx, relay.String(), c.anyServer("h3"), nil)
	var remote *quic.TransportError
	switch {
	case err == nil:
		conn.CloseWithError(0, "")
		c.ok("relay-quic", relay.String(), "answers for %s in QUIC", c.Steered)
	case errors.As(err, &remote) && remote.Remote:
		c.ok("relay-quic", relay.String(), "QUIC answers, with an error: %v", err)
	default:
		c.skip("relay-quic", relay.String(), "no QUIC answer, which the origin need not give: %v", err)
	}
}
