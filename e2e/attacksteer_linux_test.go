package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// hintedRecord returns the type and data, as RFC 3597 writes them, of an HTTPS record with n IPv4 hints from first on,
// and with an ech parameter if ech is set.
func hintedRecord(first string, n int, ech bool) string {
	rdata := []byte{0, 1, 0} // priority 1, target "."
	addr := binary.BigEndian.Uint32(netip.MustParseAddr(first).AsSlice())
	rdata = binary.BigEndian.AppendUint16(append(rdata, 0, 4), uint16(4*n))
	for i := range n {
		rdata = binary.BigEndian.AppendUint32(rdata, addr+uint32(i))
	}
	if ech {
		list := []byte{0, 4, 0xfe, 0x0d, 0, 0}
		rdata = append(binary.BigEndian.AppendUint16(append(rdata, 0, 5), uint16(len(list))), list...)
	}
	return fmt.Sprintf("TYPE65 \\# %d %x", len(rdata), rdata)
}

// costlyZone has, for every name under cost.x, eight CNAMEs of 126 labels each with an HTTPS record of 14,400 hints, or
// with an RRset of 900 addresses, at their end.
func costlyZone() string {
	var z strings.Builder
	labels := strings.Repeat("a.", 121)
	z.WriteString("$ORIGIN x.\n$TTL 300\n@ SOA ns h 1 3600 600 86400 60\n@ NS ns\nns A 198.51.100.54\n")
	for _, kind := range []string{"h", "a"} {
		fmt.Fprintf(&z, "*.cost%[1]s CNAME %[1]s0.%[2]s%[1]s\n", kind, labels)
		for i := range 8 {
			fmt.Fprintf(&z, "%[1]s%[2]d.%[4]s%[1]s CNAME %[1]s%[3]d.%[4]s%[1]s\n", kind, i, i+1, labels)
		}
	}
	fmt.Fprintf(&z, "h8.%sh %s\n", labels, hintedRecord("11.0.0.0", 14400, false))
	for i := range 900 {
		fmt.Fprintf(&z, "a8.%sa A 11.1.%d.%d\n", labels, i/250, i%250+1)
	}
	return z.String()
}

// TestAttackCostlyAnswers asks for answers that make a rule look at as many names, labels and addresses as 64 KB hold.
func TestAttackCostlyAnswers(t *testing.T) {
	for name, spec := range map[string]assault{
		"https": {Kind: "flood", Sources: clients4(4), Name: "r%d.costh.x", Type: dns.TypeHTTPS, Count: 240, Rate: 20},
		"a":     {Kind: "flood", Sources: clients4(4), Name: "r%d.costa.x", Type: dns.TypeA, Count: 240, Rate: 20},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAttackLab(t)
			a.serveAttackZones("", map[string]string{"x": costlyZone()})
			d := a.startVictim(settings{}, "")
			begin, err := d.usage()
			a.underAttack(t, d, growth{128 << 20, 500}, func() { a.assault(spec) })
			if end, err2 := d.usage(); err == nil && err2 == nil {
				t.Logf("the whole run took %v of CPU for %d costly answers", end.cpu-begin.cpu, spec.Count)
			}
		})
	}
}

// TestAttackWorkWithoutOwner has more costly questions wait than in_flight allows. What works for them is within its
// bound, and ends with the drain.
func TestAttackWorkWithoutOwner(t *testing.T) {
	const inFlight = 200
	a := newAttackLab(t)
	a.serveAttackZones("", map[string]string{"x": costlyZone()})
	d := a.startVictim(settings{}, fmt.Sprintf("in_flight: %d, query_timeout: 2s, drain_timeout: 5s", inFlight))
	before := d.number("go_goroutines")
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.assault(assault{Kind: "flood", Sources: clients4(4), Name: "r%d.costh.x", Type: dns.TypeHTTPS, Count: 400, Rate: 100})
	}()
	var worst, most float64
	for range 20 {
		n, held := d.owners()
		most, worst = max(most, held), max(worst, n-before-4*held)
	}
	<-done
	t.Logf("%v goroutines before, at most %v beyond four for each query in flight, of which at most %v", before, worst, most)
	if worst > 100 || most > inFlight {
		t.Errorf("got %v goroutines too many for the queries in flight, of which at most %v; want few for each of at most %d", worst, most, inFlight)
	}
	// The flood has ended, and each client has had its answer or SERVFAIL: nothing is left to work for.
	poll(t, 5*time.Second, "nothing works for queries that have ended", func() error {
		u, err := d.usage()
		if err != nil {
			return err
		}
		if n := d.number("go_goroutines"); n > before*1.2+20 {
			return fmt.Errorf("got %v goroutines, %v of CPU so far; want about %v goroutines", n, u.cpu, before)
		}
		return nil
	})
	a.endsInTime(d)
}

// owners returns the number of goroutines and of queries in flight at one moment.
func (d *daemon) owners() (goroutines, held float64) {
	d.t.Helper()
	for line := range strings.Lines(d.l.provider.must("curl", "-sf", "http://127.0.0.1:9153/metrics")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "go_goroutines":
			goroutines = n
		case "cfrd_in_flight":
			held = n
		}
	}
	return goroutines, held
}

// endsInTime stops d amid costly questions: it must end within drain_timeout, which is 5 s, and what little it needs.
func (a *attackLab) endsInTime(d *daemon) {
	a.t.Helper()
	a.assault(assault{Kind: "flood", Sources: clients4(4), Name: "r%d.costh.x", Type: dns.TypeHTTPS, First: 1000, Count: 100, Rate: 1000})
	begin := time.Now()
	d.signal(syscall.SIGTERM)
	select {
	case <-d.done:
		a.t.Logf("it ended %v after SIGTERM", time.Since(begin))
	case <-time.After(10 * time.Second):
		a.t.Errorf("still runs 10 s after SIGTERM with drain_timeout 5s; want it to end")
	}
}

// TestAttackPool has the owner of a domain publish more addresses than the pool has: as hints beside ech, and as the
// addresses of names that a rule lists. Customers still get relay addresses for what the operator steers: those that
// are in use, and new ones.
func TestAttackPool(t *testing.T) {
	const names = 40
	var hints, addresses strings.Builder
	for i := range names {
		fmt.Fprintf(&hints, "r%d.pool %s\n", i, hintedRecord(fmt.Sprintf("11.%d.0.0", i+1), 4000, true))
		for j := range 3000 {
			fmt.Fprintf(&addresses, "r%d.pool A 11.%d.%d.%d\n", i, i+1, j/250, j%250+1)
		}
	}
	for _, r := range []struct {
		name, zone, rule string
		qtype            uint16
	}{
		{"hints", hints.String(), "", dns.TypeHTTPS},
		{"addresses", addresses.String(), "    - {suffixes: [pool.example]}", dns.TypeA},
	} {
		t.Run(r.name, func(t *testing.T) {
			a := newAttackLab(t)
			a.serveAttackZones(r.zone+shopZone(), nil)
			a.emptyPool(t, a.startVictim(settings{steer: r.rule}, ""),
				assault{Kind: "flood", Sources: clients4(8), Name: "r%d.pool.example", Type: r.qtype, Count: names, Rate: 10})
		})
	}
}

// shopZone has names that a rule lists, each with an address of its own.
func shopZone() string {
	var zone strings.Builder
	for i := range 40 {
		fmt.Fprintf(&zone, "d%d.shop.cdn A 198.51.100.%d\n", i, 100+i)
	}
	return zone.String()
}

func (a *attackLab) emptyPool(t *testing.T, d *daemon, attack assault) {
	relayed := func(i int) []string {
		name := fmt.Sprintf("d%d.shop.cdn.example", i)
		m := a.customer.ask("", name, dns.TypeA, 3*time.Second)
		got := addressesOf(m)
		if !allIn(relayPool4, got) {
			t.Errorf("%s A: got %v, %s; want addresses of %s", name, got, rcodeOf(m), relayPool4)
		}
		return got
	}
	known := relayed(0)
	a.underAttack(t, d, growth{96 << 20, 500}, func() {
		for i := range 3 {
			a.assault(attack)
			for j := range 6 {
				relayed(1 + 6*i + j)
			}
		}
	})
	if now := relayed(0); !slices.Equal(now, known) {
		t.Errorf("got relay address %v for a destination in use; want %v, as before the attack", now, known)
	}
	for i := 20; i < 40; i++ {
		relayed(i)
	}
}

// allIn reports whether there are addresses, and all are in prefix.
func allIn(prefix string, addrs []string) bool {
	return len(addrs) > 0 && !slices.ContainsFunc(addrs, func(s string) bool {
		return !netip.MustParsePrefix(prefix).Contains(netip.MustParseAddr(s))
	})
}

// rcodeOf returns the RCODE of m, which may be nil.
func rcodeOf(m *dns.Msg) string {
	if m == nil {
		return "no answer"
	}
	return dns.RcodeToString[m.Rcode]
}

// addressesOf returns the addresses in the Answer section of m, which may be nil.
func addressesOf(m *dns.Msg) (got []string) {
	if m == nil {
		return nil
	}
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			got = append(got, rr.A.String())
		case *dns.AAAA:
			got = append(got, rr.AAAA.String())
		}
	}
	return got
}

const someECH = `ech="AEX+DQBBaQAgACCv8mvUYkoxvQQDgXCBTBGyJKpcrLWhEzd3JQeYwNBQPgAEAAEAAQASY292ZXIuZXhhbXBsZS50ZXN0AAA="`

// TestAttackForeignTargets has strangers' HTTPS records name other people's hosts, once and by the ten thousand.
// Nobody else's answers may change by that; and what a record of the operator's own rule names stays steered.
func TestAttackForeignTargets(t *testing.T) {
	const targets = 24000 // more than the resolver remembered when this was found
	var zone strings.Builder
	zone.WriteString("imap.victim A 198.51.100.2\nevil HTTPS 1 imap.victim " + someECH + "\n")
	zone.WriteString("svc.cdn HTTPS 1 edge.other alpn=h2 ipv4hint=198.51.100.2\nedge.other A 198.51.100.2\n")
	for i := range targets {
		fmt.Fprintf(&zone, "e%d.evil HTTPS 1 t%d.victim %s\n", i, i, someECH)
	}
	a := newAttackLab(t)
	a.serveAttackZones(zone.String(), nil)
	d := a.startVictim(settings{}, "")
	target := func() string {
		m := a.customer.ask("", "svc.cdn.example", dns.TypeHTTPS, 3*time.Second)
		if m == nil || len(m.Answer) != 1 {
			t.Fatalf("svc.cdn.example HTTPS: got %v; want a record", m)
		}
		name := m.Answer[0].(*dns.HTTPS).Target
		if name == "." {
			name = m.Answer[0].Header().Name
		}
		return name
	}()
	targetIsSteered := func(when string) {
		got := addressesOf(a.customer.ask("", target, dns.TypeA, 3*time.Second))
		if !allIn(relayPool4, got) {
			t.Errorf("%s: %s A, the target of a steered record: got %v; want an address of %s", when, target, got, relayPool4)
		}
	}
	targetIsSteered("before")
	if m := a.attackers.ask("10.0.1.1", "evil.example", dns.TypeHTTPS, 3*time.Second); m == nil || len(m.Answer) == 0 {
		t.Errorf("evil.example HTTPS: got %v; want a record", m)
	}
	victimIsReal := func(when string) {
		if got := addressesOf(a.customer.ask("", "imap.victim.example", dns.TypeA, 3*time.Second)); !slices.Equal(got, []string{origin4}) {
			t.Errorf("%s: imap.victim.example A: got %v; want %s: no rule speaks of it", when, got, origin4)
		}
	}
	victimIsReal("after a stranger's record")
	a.underAttack(t, d, growth{96 << 20, 1000}, func() {
		a.assault(assault{Kind: "flood", Sources: clients4(16), Name: "e%d.evil.example", Type: dns.TypeHTTPS, Count: targets, Rate: 2000})
		// The customer may use the record that he was given for the TTL that he was given, which has not ended yet.
		targetIsSteered("after the flood")
	})
	victimIsReal("after the flood")
}

// TestAttackSilentHTTPS asks for addresses of names whose HTTPS record is never answered for, as old load balancers do.
// A rule asks for ECH; the address must come all the same, after a small share of what a client waits.
func TestAttackSilentHTTPS(t *testing.T) {
	a := newAttackLab(t)
	a.serveAttackZones("", nil)
	d := a.startVictim(settings{}, "")
	const names = 60
	var got tally
	a.underAttack(t, d, growth{64 << 20, 500}, func() {
		got = a.assault(assault{Kind: "flood", Sources: clients4(4), Name: "n%05d.drop65.example", Type: dns.TypeA, Count: names, Rate: 5})
	})
	if got.Rcodes["NOERROR"] != names {
		t.Errorf("got %v for %d names; want NOERROR for all", got.Rcodes, names)
	}
	if got.Slowest > 1500*time.Millisecond {
		t.Errorf("the slowest answer took %v; want a small share of the 4 s of a query", got.Slowest)
	}
}
