package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// tablePrefix begins the name of each table of a relay; the number of its slot follows.
const tablePrefix = "cfrd_relay_"

// tableComment is what `nft list ruleset` shows with the first rules: a table itself has no comment in kernels before 5.10.
const tableComment = "made by cfrd, see cfrd help relay; removed when the relay ends, or by its next start"

// firewallPriority lets the host's own rules, which are usually at priority 0, decide first.
const firewallPriority = 10

// firewall is the table of one relay.
type firewall struct {
	inPlace bool
	warning string // why it is not in place although it is wanted, or empty
}

// rules are what a firewall is made of.
type rules struct {
	relay, egress []netip.Prefix // an egress prefix that is a relay prefix as well counts as the latter
	ports         []uint16
}

// set puts the table in place, or replaces it in one step. What keeps it from that is a warning: the relay works without.
func (f *firewall) set(s *slot, r rules, log zerolog.Logger) {
	r = r.normal()
	if len(r.relay)+len(r.egress) == 0 {
		return
	}
	err := reclaimFirewalls()
	if err == nil {
		err = replaceTable(s.number, r)
	}
	if err == nil {
		f.inPlace, f.warning = true, ""
		return
	}
	before := f.warning
	reason, _, _ := strings.Cut(err.Error(), "\n") // behind the first, each message of the transaction has failed as well
	f.warning = "relay.firewall: services of this host that listen on all addresses answer at relay and egress addresses, " +
		"because no table of nftables can keep them out: " + reason
	if f.warning != before {
		log.Warn().Msg(f.warning)
	}
}

// remove removes the table.
func (f *firewall) remove(s *slot) error {
	if !f.inPlace {
		return nil
	}
	f.inPlace = false
	return deleteTable(tableName(s.number))
}

func tableName(number int) string { return tablePrefix + strconv.Itoa(number) }

func deleteTable(name string) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.DelTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the nftables table %s: %w", name, err)
	}
	return nil
}

// reclaimFirewalls removes the tables of relays that have ended.
func reclaimFirewalls() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("list the tables of nftables: %w", err)
	}
	var errs []error
	for _, t := range tables {
		suffix, ours := strings.CutPrefix(t.Name, tablePrefix)
		number, err := strconv.Atoi(suffix)
		if ours && err == nil && !taken(number) {
			errs = append(errs, deleteTable(t.Name))
		}
	}
	return errors.Join(errs...)
}

// normal returns r without what needs no firewall, and without overlaps, which a set of nftables must not have.
func (r rules) normal() rules {
	relay := disjoint(withoutLoopback(r.relay))
	egress := disjoint(slices.DeleteFunc(withoutLoopback(r.egress), func(p netip.Prefix) bool {
		return slices.Contains(relay, p)
	}))
	return rules{relay, egress, r.ports}
}

// disjoint returns those of prefixes that are within no other.
func disjoint(prefixes []netip.Prefix) (list []netip.Prefix) {
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int { return a.Bits() - b.Bits() })
	for _, p := range prefixes {
		if !slices.ContainsFunc(list, p.Overlaps) {
			list = append(list, p)
		}
	}
	return list
}

// replaceTable makes the table of the relay with a slot number, in place of the one that there may be, as one
// transaction. In the language of nft(8) it is:
//
//	table inet cfrd_relay_1 {
//		chain input {
//			type filter hook input priority 10; policy accept;
//			ip daddr { RELAY } goto relay
//			ip6 daddr { RELAY } goto relay
//			ip daddr { EGRESS } goto egress
//			ip6 daddr { EGRESS } goto egress
//		}
//		chain relay {
//			meta l4proto { tcp, udp } th dport { PORTS } accept
//			meta nfproto ipv6 frag frag-off != 0 accept
//			meta l4proto { icmp, icmpv6 } accept
//			meta l4proto tcp reject with tcp reset
//			reject with icmpx port-unreachable
//		}
//		chain egress {
//			meta l4proto tcp tcp flags & (syn | ack) != syn accept
//			meta l4proto udp socket wildcard 0 accept
//			meta nfproto ipv6 frag frag-off != 0 accept
//			meta l4proto { icmp, icmpv6 } accept
//			meta l4proto tcp reject with tcp reset
//			reject with icmpx port-unreachable
//		}
//	}
//
// Nothing of it needs connection tracking. The relay never listens at an egress address, so that no packet which opens
// a TCP connection there is for it; others reach a program only within a connection, and the kernel resets the rest. Of
// UDP, the sockets of flows are bound to their source address, while what answers everywhere is bound to the wildcard
// address. The kernel has usually found the socket before the rule asks for it. The rules for the packets of flows come
// first: they cost some 0.3 µs for each packet that arrives at a relay or egress address.
//
// IPv6 packets are only put together behind this chain. A fragment that is not the first tells no port, and leads
// nowhere without the first, which does. Fragments that overlap are dropped. See RFC 5722, Section 4.
func replaceTable(number int, r rules) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	t := &nftables.Table{Name: tableName(number), Family: nftables.TableFamilyINet}
	conn.AddTable(t)
	conn.DelTable(t)
	conn.AddTable(t)
	priority, policy := nftables.ChainPriority(firewallPriority), nftables.ChainPolicyAccept
	b := builder{conn: conn, table: t}
	relay, egress := b.chain(nftables.Chain{Name: "relay"}), b.chain(nftables.Chain{Name: "egress"})
	input := b.chain(nftables.Chain{
		Name: "input", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: &priority, Policy: &policy,
	})
	b.dispatch(input, r.relay, relay)
	b.dispatch(input, r.egress, egress)
	b.relayRules(relay, r.ports)
	b.egressRules(egress)
	if b.err != nil {
		return b.err
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("make the nftables table %s: %w", t.Name, err)
	}
	return nil
}

// builder adds to a table, until something fails.
type builder struct {
	conn  *nftables.Conn
	table *nftables.Table
	err   error
}

func (b *builder) chain(c nftables.Chain) *nftables.Chain {
	c.Table = b.table
	return b.conn.AddChain(&c)
}

// rule adds a rule.
func (b *builder) rule(c *nftables.Chain, parts ...[]expr.Any) {
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: slices.Concat(parts...)})
}

// dispatch sends what goes to prefixes to the chain to.
func (b *builder) dispatch(from *nftables.Chain, prefixes []netip.Prefix, to *nftables.Chain) {
	for _, family := range []struct {
		proto   byte
		offset  uint32 // of the destination in the header
		keyType nftables.SetDatatype
	}{
		{unix.NFPROTO_IPV4, 16, nftables.TypeIPAddr},
		{unix.NFPROTO_IPV6, 24, nftables.TypeIP6Addr},
	} {
		var elements []nftables.SetElement
		for _, p := range prefixes {
			if p.Addr().Is4() == (family.proto == unix.NFPROTO_IPV4) {
				elements = append(elements, interval(p)...)
			}
		}
		if elements == nil {
			continue
		}
		b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: from, Exprs: slices.Concat(
			[]expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal(family.proto)},
			[]expr.Any{&expr.Payload{
				DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: family.offset, Len: family.keyType.Bytes,
			}},
			b.in(nftables.Set{KeyType: family.keyType, Interval: true}, elements),
			[]expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: to.Name}},
		), UserData: userdata.AppendString(nil, userdata.TypeComment, tableComment)})
	}
}

// interval returns p as elements of a set: its first address, and the first behind it, of which there is none after the
// last address of all.
func interval(p netip.Prefix) []nftables.SetElement {
	list := []nftables.SetElement{{Key: p.Masked().Addr().AsSlice()}}
	if end := samples(p)[2].Next(); end.IsValid() {
		list = append(list, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
	}
	return list
}

// in matches if register 1 is in a new anonymous set.
func (b *builder) in(s nftables.Set, elements []nftables.SetElement) []expr.Any {
	s.Table, s.Anonymous, s.Constant = b.table, true, true
	if err := b.conn.AddSet(&s, elements); err != nil && b.err == nil {
		b.err = err
	}
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID}}
}

// relayRules accept what is for the relay's listeners.
func (b *builder) relayRules(c *nftables.Chain, ports []uint16) {
	var elements []nftables.SetElement
	for _, p := range ports {
		elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint16(p)})
	}
	b.rule(c,
		b.protocols(unix.IPPROTO_TCP, unix.IPPROTO_UDP),
		[]expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}},
		b.in(nftables.Set{KeyType: nftables.TypeInetService}, elements),
		accept(),
	)
	b.acceptAlways(c)
	b.reject(c)
}

// egressRules accept what belongs to a flow.
func (b *builder) egressRules(c *nftables.Chain) {
	const flags, syn, ack = 13, 2, 16 // the octet of the flags in the TCP header, and two of them
	b.rule(c,
		b.protocols(unix.IPPROTO_TCP),
		[]expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn | ack}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{syn}},
		},
		accept(),
	)
	b.rule(c,
		b.protocols(unix.IPPROTO_UDP),
		[]expr.Any{&expr.Socket{Key: expr.SocketKeyWildcard, Register: 1}, equal(0)},
		accept(),
	)
	b.acceptAlways(c)
	b.reject(c)
}

// acceptAlways accepts the rest of fragmented packets, and ICMP, which tells of errors and of the path MTU. The kernel
// itself answers that, and no program.
func (b *builder) acceptAlways(c *nftables.Chain) {
	b.rule(c, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal(unix.NFPROTO_IPV6),
		&expr.Exthdr{DestRegister: 1, Type: unix.IPPROTO_FRAGMENT, Offset: 2, Len: 2, Op: expr.ExthdrOpIpv6},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: []byte{0xff, 0xf8}, Xor: []byte{0, 0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0}},
	}, accept())
	b.rule(c, b.protocols(unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6), accept())
}

// reject refuses the rest in the way in which a host refuses a closed port.
func (b *builder) reject(c *nftables.Chain) {
	b.rule(c, b.protocols(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	b.rule(c, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})
}

// protocols matches transport protocols.
func (b *builder) protocols(protocols ...byte) []expr.Any {
	load := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}}
	if len(protocols) == 1 {
		return append(load, equal(protocols[0]))
	}
	var elements []nftables.SetElement
	for _, p := range protocols {
		elements = append(elements, nftables.SetElement{Key: []byte{p}})
	}
	return append(load, b.in(nftables.Set{KeyType: nftables.TypeInetProto}, elements)...)
}

func equal(value byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{value}}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
