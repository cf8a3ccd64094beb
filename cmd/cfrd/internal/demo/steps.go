package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/check"
	"github.com/cfrd-project/cfrd/resolver"
)

// privacyTable holds the addresses that each party saw, as the journey observed them.
type privacyTable struct {
	customer     netip.AddrPort // its socket to the relay
	relayClient  netip.AddrPort // the relay's accepted connection: who it thinks the client is
	relayAddr    netip.AddrPort // the relay's accepted connection: which relay address
	relaySource  netip.AddrPort // the relay's connection to the origin
	relayDest    netip.AddrPort
	originClient netip.AddrPort // in the origin's log, of the steered name
	directClient netip.AddrPort // in the origin's log, of the other
}

// ask sends one question of the customer over a transport, and verifies the resolver by its name where there is TLS.
func (j *journey) ask(ctx context.Context, t resolver.Transport, name string, qtype uint16) (*dns.Msg, error) {
	p := j.stage.ports
	port := [resolver.NumTransports]uint16{
		resolver.UDP: p.Do53, resolver.TCP: p.Do53, resolver.DoT: p.DoT,
		resolver.DoH: p.DoH, resolver.DoH3: p.DoH, resolver.DoQ: p.DoQ,
	}[t]
	c := check.Client{
		Addr:   netip.AddrPortFrom(resolverAddr, port),
		From:   customerAddr,
		SNI:    resolverName,
		Verify: check.VerifyNames(j.stage.ca.pool(), resolverName),
	}
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	r, err := c.Exchange(ctx, t, m)
	if err == nil && r.Rcode != dns.RcodeSuccess {
		err = fmt.Errorf("%s %s: %s", name, dns.TypeToString[qtype], dns.RcodeToString[r.Rcode])
	}
	return r, err
}

// discover asks for the designated resolvers and checks that each transport of the resolver is there.
func (j *journey) discover(ctx context.Context) error {
	r, err := j.ask(ctx, resolver.UDP, "_dns.resolver.arpa", dns.TypeSVCB)
	if err != nil {
		return err
	}
	j.sayf("_dns.resolver.arpa SVCB at %v:%d", resolverAddr, j.stage.ports.Do53)
	missing := map[string]bool{"dot": true, "doq": true, "h2": true, "h3": true}
	relay := false
	for _, rr := range r.Answer {
		svcb, ok := rr.(*dns.SVCB)
		if !ok {
			continue
		}
		j.sayf("  %d %s %s", svcb.Priority, svcb.Target, paramText(svcb.Value))
		for _, kv := range svcb.Value {
			switch kv := kv.(type) {
			case *dns.SVCBAlpn:
				for _, id := range kv.Alpn {
					delete(missing, id)
				}
			case *dns.SVCBMandatory:
				relay = true
			}
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("no record for %v", missing)
	}
	if !relay {
		return errors.New("no record of the relay")
	}
	j.sayf("The last one is the relay's own: who does not know key65280 skips it.")
	return nil
}

// paramText returns the parameters of an SVCB record in presentation form.
func paramText(params []dns.SVCBKeyValue) string {
	words := make([]string, len(params))
	for i, kv := range params {
		words[i] = kv.Key().String() + "=" + kv.String()
	}
	return strings.Join(words, " ")
}

// transports asks one question over every transport; all answers must be the same.
func (j *journey) transports(ctx context.Context) error {
	var first []string
	for t := range resolver.NumTransports {
		r, err := j.ask(ctx, t, directName, dns.TypeA)
		if err != nil {
			return fmt.Errorf("%v: %w", t, err)
		}
		got := addressesIn(r)
		j.sayf("%-8v %s A %s", t, directName, strings.Join(got, " "))
		if first == nil {
			first = got
		}
		if len(got) == 0 || !slices.Equal(got, first) {
			return fmt.Errorf("%v: got %v; want %v as over the others", t, got, first)
		}
	}
	return nil
}

// addressesIn returns the addresses in the Answer section of r.
func addressesIn(r *dns.Msg) (list []string) {
	for _, rr := range r.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			list = append(list, rr.A.String())
		case *dns.AAAA:
			list = append(list, rr.AAAA.String())
		}
	}
	return list
}

// steering shows what becomes of a steered name's address and hints, and that the other's stay.
func (j *journey) steering(ctx context.Context) error {
	for _, name := range []string{directName, steeredName} {
		r, err := j.ask(ctx, resolver.UDP, name, dns.TypeA)
		if err != nil {
			return err
		}
		got := addressesIn(r)
		if len(got) != 1 {
			return fmt.Errorf("%s A: got %v; want one address", name, got)
		}
		addr := netip.MustParseAddr(got[0])
		if name == steeredName {
			j.relay = addr
			j.sayf("%-18s A     %v, an address of the relay", name, addr)
			continue
		}
		j.sayf("%-18s A     %v, the origin's", name, addr)
		if addr != originAddr {
			return fmt.Errorf("got %v; want %v", addr, originAddr)
		}
	}
	if !relayPrefix.Contains(j.relay) {
		return fmt.Errorf("got %v; want an address of the relay, in %v", j.relay, relayPrefix)
	}
	return j.hints(ctx)
}

// hints holds the HTTPS record to the A record: the same address, and everything else as the origin's zone has it.
func (j *journey) hints(ctx context.Context) error {
	r, err := j.ask(ctx, resolver.UDP, steeredName, dns.TypeHTTPS)
	if err != nil {
		return err
	}
	for _, rr := range r.Answer {
		https, ok := rr.(*dns.HTTPS)
		if !ok {
			continue
		}
		for _, kv := range https.Value {
			switch kv := kv.(type) {
			case *dns.SVCBIPv4Hint:
				j.sayf("%-18s HTTPS ipv4hint=%s, the same", steeredName, kv)
				if len(kv.Hint) != 1 || kv.Hint[0].String() != j.relay.String() {
					return fmt.Errorf("got ipv4hint=%s; want %v", kv, j.relay)
				}
			case *dns.SVCBECHConfig:
				j.ech = kv.ECH
				j.sayf("%-18s       ech=%.16s…, not touched", "", kv.String())
			}
		}
	}
	if string(j.ech) != string(j.stage.origin.echConfigs) {
		return errors.New("the ech parameter is not the origin's")
	}
	return nil
}

// visitTLS loads a page through the relay, twice, to see that the sources differ.
func (j *journey) visitTLS(ctx context.Context) error {
	if !j.relay.IsValid() {
		return errors.New("no relay address")
	}
	to := netip.AddrPortFrom(j.relay, j.stage.ports.Origin)
	for range 2 {
		page, err := visitTLS(ctx, customerAddr, to, steeredName, j.stage.ca.pool(), j.ech)
		if err != nil {
			return err
		}
		v, _ := j.stage.origin.lastVisit()
		j.sayf("%v -> %v: %s", page.local, to, strings.TrimSpace(page.text))
		if !page.ech || !v.ech {
			return errors.New("the origin did not accept Encrypted Client Hello")
		}
		if err := j.throughRelay(v); err != nil {
			return err
		}
		j.seen.customer, j.seen.originClient = page.local, v.from
		j.observe(page.hops)
	}
	j.sayf("ECH was accepted: on the wire the name was %s.", outerName)
	return nil
}

// observe picks the relay's two sockets out of what the kernel listed while the page was loaded.
func (j *journey) observe(hops []tcpPair) {
	for _, h := range hops {
		switch {
		case h.remote == j.seen.customer && h.local.Addr() == j.relay:
			j.seen.relayClient, j.seen.relayAddr = h.remote, h.local
		case h.local == j.seen.originClient:
			j.seen.relaySource, j.seen.relayDest = h.local, h.remote
		}
	}
}

// throughRelay holds a visit to have come from the relay, from a source that no visit before had.
func (j *journey) throughRelay(v visit) error {
	if !egressPrefix.Contains(v.from.Addr()) {
		return fmt.Errorf("the origin saw %v; want an address of the relay, in %v", v.from, egressPrefix)
	}
	for _, s := range j.sources {
		if s == v.from {
			return fmt.Errorf("the source %v came twice", s)
		}
	}
	j.sources = append(j.sources, v.from)
	return nil
}

// visitQUIC loads a page over QUIC through the relay.
func (j *journey) visitQUIC(ctx context.Context) error {
	if !j.relay.IsValid() {
		return errors.New("no relay address")
	}
	to := netip.AddrPortFrom(j.relay, j.stage.ports.Origin)
	page, err := visitQUIC(ctx, customerAddr, to, steeredName, j.stage.ca.pool(), j.ech)
	if err != nil {
		return err
	}
	v, _ := j.stage.origin.lastVisit()
	j.sayf("%v -> %v: %s", page.local, to, strings.TrimSpace(page.text))
	if v.protocol != "quic" {
		return fmt.Errorf("the origin was visited over %s", v.protocol)
	}
	return j.throughRelay(v)
}

// visitDirect loads the page that is not steered, which must show the origin the customer.
func (j *journey) visitDirect(ctx context.Context) error {
	to := netip.AddrPortFrom(originAddr, j.stage.ports.Origin)
	page, err := visitTLS(ctx, customerAddr, to, directName, j.stage.ca.pool(), nil)
	if err != nil {
		return err
	}
	v, _ := j.stage.origin.lastVisit()
	j.seen.directClient = v.from
	j.sayf("%v -> %v: %s", page.local, to, strings.TrimSpace(page.text))
	if v.from.Addr() != customerAddr {
		return fmt.Errorf("the origin saw %v; want the customer, %v, or the steps before prove nothing", v.from, customerAddr)
	}
	return nil
}

// privacy prints what each party saw. What the relay saw is read from the kernel's list of its sockets.
func (j *journey) privacy(context.Context) error {
	s := j.seen
	w := tabwriter.NewWriter(j.out, 0, 0, 2, ' ', 0)
	for _, row := range [][4]string{
		{"", "the customer's address", "the name", "the origin's address"},
		{"resolver", customerAddr.String(), steeredName, originAddr.String()},
		{"relay", s.relayClient.String(), "never", s.relayDest.String()},
		{"origin", "no: " + s.originClient.String(), steeredName, "its own"},
		{"origin, not steered", s.directClient.String(), directName, "its own"},
	} {
		fmt.Fprintf(w, "   %s\t%s\t%s\t%s\n", row[0], row[1], row[2], row[3])
	}
	if err := w.Flush(); err != nil {
		return err
	}
	switch {
	case s.relayClient != s.customer:
		return fmt.Errorf("the relay's client is %v; want %v", s.relayClient, s.customer)
	case s.relayDest != netip.AddrPortFrom(originAddr, j.stage.ports.Origin):
		return fmt.Errorf("the relay's destination is %v; want the origin", s.relayDest)
	case s.relaySource != s.originClient:
		return fmt.Errorf("the relay left from %v, but the origin saw %v", s.relaySource, s.originClient)
	}
	return nil
}
