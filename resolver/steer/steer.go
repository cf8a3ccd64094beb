package steer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/cfrd-project/cfrd/resolver/internal/wire"
)

// Lookup resolves a question that is not the client's own, and returns the unsteered response in wire form. name is fully
// qualified, in lower case. It may wait for upstreams until ctx is done.
type Lookup func(ctx context.Context, name string, qtype uint16) ([]byte, error)

// Steerer applies a Config to responses. It may be used from any goroutine.
type Steerer struct {
	config  Config
	targets *targets // handed on to the Steerer that replaces this one
	leads   *leads   // likewise
	pace    *pace
	found   *atomic.Pointer[[]netip.Prefix] // see Discovered; handed on as well
	forget  func(name string)               // see New
}

// New returns a steerer with configuration c, which remembers what old knew of targets; old may be nil. forget is
// called with a name for which an address may have been found before it was known that the name is to be steered:
// whatever was kept of that is wrong. It is called from within Apply.
func New(c Config, old *Steerer, forget func(name string)) (*Steerer, error) {
	if c.Policy == nil || c.Relay == nil {
		return nil, errors.New("needs a policy and a relay")
	}
	if c.MaxTTL < 0 {
		return nil, fmt.Errorf("negative maximum TTL %s", c.MaxTTL)
	}
	for _, p := range c.NAT64 {
		if err := CheckNAT64(p); err != nil {
			return nil, err
		}
	}
	c.MaxTTL = cmp.Or(c.MaxTTL, DefaultTTL)
	s := &Steerer{config: c, targets: new(targets), leads: new(leads), pace: new(pace), found: new(atomic.Pointer[[]netip.Prefix]), forget: forget}
	if old != nil {
		s.targets, s.leads, s.found = old.targets, old.leads, old.found
	}
	return s, nil
}

// MaxTTL returns how long a decision of s holds at most: the cap for what is rewritten.
func (s *Steerer) MaxTTL() time.Duration { return s.config.MaxTTL }

// Healthy reports whether the relay takes flows.
func (s *Steerer) Healthy() bool { return s.config.Relay.Healthy() }

// Verdict says what Apply made of a response.
type Verdict uint8

// Values of Verdict.
const (
	Untouched Verdict = iota // nothing: it returned the response itself
	Steered                  // it has relay addresses, or lacks addresses that no relay address stands for
	Shortened                // only TTLs are lower, so that it is asked for again, or additional addresses are left out
	Passed                   // as Shortened, because the relay could not take a destination
)

// ErrRelayFailed means that the relay cannot take a destination, and that clients must not get its own address instead.
var ErrRelayFailed = errors.New("relay cannot take a destination")

// ErrRefused means that Client of a Request has had enough of the relay's addresses for now. Others may get one.
var ErrRefused = errors.New("too many new relay addresses")

const (
	// unsureTTL caps the TTLs, in seconds, of answers that would be others if an upstream or the relay had
	// not failed.
	unsureTTL = 5
	// maxPath bounds the names that lead to an address. Resolvers give up on chains of about that length.
	maxPath = 16
	// maxAliases bounds the records in AliasMode that are followed to find out about ech.
	maxAliases = 4
)

// Result is what Apply made of a response.
type Result struct {
	Octets  []byte // a complete message
	Verdict Verdict
	// Cut says that something is left out because the response went beyond the bounds of this package, or would have
	// taken more of the relay's addresses than one response may.
	Cut bool
	// Refused is set if Verdict is Passed because of ErrRefused, so that nobody but Client of the Request must get it.
	Refused bool
	// Leads are to be noted for each client that is given the message. See Give.
	Leads []Lead

	qname   string
	origins []origin // what was known to lead to it
}

// LeadsSize returns the octets that Leads occupies.
func (res *Result) LeadsSize() (n int64) {
	for i := range res.Leads {
		n += res.Leads[i].size()
	}
	return n
}

// Request is what Apply needs to know.
type Request struct {
	Response []byte // a complete message; it is never changed
	Lookup   Lookup
	Client   netip.Addr // who the work is done for
	// Led is what led Client to QNAME, from Steerer.Led. If it is not nil, the result is for Client alone.
	Led []Origin
}

// Outdated reports whether more has become known meanwhile that leads to the name that res is about, so that it must not
// be kept.
func (s *Steerer) Outdated(res *Result) bool {
	return slices.ContainsFunc(s.targets.lookup(res.qname, time.Now()), func(o origin) bool {
		return !slices.ContainsFunc(res.origins, func(known origin) bool { return known.is(&o) })
	})
}

// Apply returns what a client that may use the relay gets instead of a response. Every A and AAAA record and every hint
// is looked at, whatever was asked for and in whichever section it is:
//
//   - an address that Policy steers becomes the relay's; if the relay has none in its family, it is removed. It is
//     removed from an HTTPS or SVCB record as well if Hints says so.
//   - if an IPv4 address is written in an IPv6 address, that one decides (embedded.go).
//   - an address that the relay cannot reach is removed if the name has others, and as a hint in any case.
//   - if no AAAA record is left, or there was none, one is made of each steered A record that the relay expresses in
//     IPv6. If nothing is left at all, the answer becomes NODATA, with an SOA record of ours. See RFC 2308, Section 2.2.
//   - names that HTTPS and SVCB records of steered names point to are steered as well when they are asked for,
//     unless a rule speaks of them: for all clients if the operator has listed the name that points to them, else for
//     those who were given the record, see Lead. A record is left out if that cannot be remembered.
//   - signatures of what was changed are removed, and AD is cleared. See RFC 6147, Section 5.5.
//   - a record with a port that the relay does not serve loses port and hints if its target is steered (port.go).
//   - what goes beyond the bounds of one response (bounds.go) is left out.
//
// If it cannot be found out whether a name has ech, it counts as having none, for unsureTTL. It ends when ctx is done. An
// error is wire.ErrMalformed, ErrRelayFailed, or that of ctx.
func (s *Steerer) Apply(ctx context.Context, q Request) (Result, error) {
	m, cut, err := parse(q.Response)
	if err != nil {
		return Result{}, err
	}
	if !steerable(m) && !cut {
		return Result{Octets: q.Response}, nil
	}
	r := s.newRewrite(ctx, m, &q)
	r.cut = cut
	res := Result{qname: r.qname, origins: r.origins}
	res.Verdict, err = r.run()
	switch {
	case ctx.Err() != nil:
		return Result{}, context.Cause(ctx)
	case errors.Is(err, ErrRelayFailed) && s.config.OnFailure == FailPass:
		res.Verdict, res.Refused = Passed, errors.Is(err, ErrRefused)
		res.Octets, err = shorten(q.Response)
	case err != nil:
		return Result{}, err
	case res.Verdict == Untouched:
		res.Octets, res.Leads = q.Response, r.leads
	default:
		res.Cut, res.Leads = r.cut, r.leads
		res.Octets, err = m.Pack()
	}
	return res, err
}

// steerable reports whether m can have an address to steer.
func steerable(m *wire.Message) bool {
	if m.Rcode() != dns.RcodeSuccess || m.Class() != dns.ClassINET {
		return false
	}
	return m.Type() == dns.TypeAAAA || slices.ContainsFunc(slices.Concat(m.Sections[:]...), func(r wire.Record) bool {
		return r.Class == dns.ClassINET && hasAddress(r.Type)
	})
}

// shorten returns response with TTLs of at most unsureTTL.
func shorten(response []byte) ([]byte, error) {
	m, _, err := parse(response)
	if err != nil {
		return nil, err
	}
	capTTLs(m, unsureTTL, func(wire.RRset) bool { return true })
	return m.Pack()
}

// capTTLs lowers the TTLs of RRsets, and of their signatures with them. See RFC 4034, Section 3.
func capTTLs(m *wire.Message, seconds uint32, which func(wire.RRset) bool) {
	for _, rrs := range m.Sections {
		for i := range rrs {
			if r := &rrs[i]; r.Type != dns.TypeOPT && which(r.RRset()) {
				r.TTL = min(wire.SaneTTL(r.TTL), seconds)
			}
		}
	}
}

// rewrite is one call of Apply.
type rewrite struct {
	*Steerer
	ctx     context.Context
	lookup  Lookup
	answer  Answer
	m       *wire.Message
	qname   string
	paths   map[string][]string // from QNAME to the names that it leads to
	judged  map[pathKey]*path   // nil beyond the bounds
	origins []origin            // what led to QNAME, if it was a target

	client netip.Prefix // who the work is done for

	labels, addresses, leases, portLookups int // what is left of the bounds

	relayed bool // a relay address is in the response

	echKnown, ech         bool
	carriesKnown, carries bool                // a record of the response carries ech
	unsure                bool                // a lookup failed
	trimmed               bool                // addresses that nobody asked for were left out
	cut                   bool                // something went beyond the bounds
	changed               map[wire.RRset]bool // RRsets in which an address or hint was replaced or removed
	leads                 []Lead
	capped                map[wire.RRset]bool // RRsets whose TTL must not be higher than MaxTTL
	seen                  map[relayed]bool
}

// relayed is an address record that is kept.
type relayed struct {
	name string
	addr netip.Addr
}

func (s *Steerer) newRewrite(ctx context.Context, m *wire.Message, q *Request) *rewrite {
	qname := wire.NameText(m.Question[:len(m.Question)-4])
	return &rewrite{
		Steerer: s, ctx: ctx, lookup: q.Lookup, answer: s.config.Relay.Answer(), client: clientOf(q.Client), m: m, qname: qname,
		paths: paths(m, qname), judged: make(map[pathKey]*path),
		origins: append(s.targets.lookup(qname, time.Now()), q.Led...),
		labels:  maxLabels, addresses: maxAddresses, leases: maxNew, portLookups: maxPortLookups,
		changed: make(map[wire.RRset]bool), capped: make(map[wire.RRset]bool), seen: make(map[relayed]bool),
	}
}

// cap returns the smaller of ttl and the cap, in seconds.
func (s *Steerer) cap(ttl uint32) uint32 {
	return min(wire.SaneTTL(ttl), uint32(s.MaxTTL()/time.Second))
}

// run changes r.m and reports what it did.
func (r *rewrite) run() (Verdict, error) {
	had := r.answers()
	for section := range r.m.Sections {
		if err := r.section(section); err != nil {
			return Untouched, err
		}
	}
	if !r.answers() {
		if err := r.fill(had); err != nil {
			return Untouched, err
		}
	}
	if err := r.answer.Commit(r.ctx); err != nil {
		return Untouched, fmt.Errorf("%w: %w", ErrRelayFailed, err)
	}
	r.dropSignatures()
	capTTLs(r.m, r.cap(wire.MaxTTL), func(k wire.RRset) bool { return r.changed[k] || r.capped[k] })
	if r.unsure || r.cut {
		capTTLs(r.m, unsureTTL, func(wire.RRset) bool { return true })
	}
	if len(r.changed) > 0 || r.cut {
		r.m.Header[3] &^= wire.FlagAD
	}
	switch {
	case len(r.changed) > 0:
		return Steered, nil
	case len(r.capped) > 0 || r.unsure || r.trimmed || r.cut:
		return Shortened, nil
	}
	return Untouched, nil
}

// answers reports whether the Answer section has what was asked for.
func (r *rewrite) answers() bool {
	qtype := r.m.Type()
	return slices.ContainsFunc(r.m.Sections[wire.AnswerSection], func(a wire.Record) bool { return a.Type == qtype || qtype == dns.TypeANY })
}

// section rewrites the records of one section.
func (r *rewrite) section(section int) error {
	rrs, spare := r.m.Sections[section], r.spare(section)
	kept := rrs[:0]
	for i := range rrs {
		keep, err := r.record(section, &rrs[i], spare[rrs[i].RRset()])
		if err != nil {
			return err
		}
		if keep {
			kept = append(kept, rrs[i])
		}
	}
	r.m.Sections[section] = kept
	return nil
}

// record rewrites one record and reports whether it stays. spare says that its RRset can do without it if it is dead.
func (r *rewrite) record(section int, rec *wire.Record, spare bool) (keep bool, err error) {
	switch {
	case rec.Class != dns.ClassINET:
	case rec.Type == dns.TypeA, rec.Type == dns.TypeAAAA:
		return r.address(section, rec, spare)
	case rec.IsSVCB():
		return r.service(section, rec)
	}
	return true, nil
}

// address rewrites an A or AAAA record.
func (r *rewrite) address(section int, rec *wire.Record, spare bool) (keep bool, err error) {
	old, _ := netip.AddrFromSlice(rec.Data)
	p := r.pathOf(section, rec.Name, "")
	if p == nil {
		r.changed[rec.RRset()] = true
		return false, nil
	}
	addr, what, err := r.replace(p, old, rec.TTL, role{extra: section != wire.AnswerSection, spare: spare})
	switch {
	case err != nil:
		return false, err
	case what == stay:
		return true, nil
	case what == omit:
		r.trimmed = true
		return false, nil
	}
	r.changed[rec.RRset()] = true
	if what == remove || r.seen[relayed{rec.Name, addr}] {
		return false, nil
	}
	r.seen[relayed{rec.Name, addr}] = true
	rec.Data = addr.AsSlice()
	return true, nil
}

// service rewrites the hints of a record of the SVCB kind, also of one in AliasMode, in which clients ignore them. One
// whose parameters cannot be read is removed: clients must not use it, and those that do must not find an address that
// we did not.
func (r *rewrite) service(section int, rec *wire.Record) (keep bool, err error) {
	p := r.pathOf(section, rec.Name, rec.Target())
	if p == nil || !r.remember(p, rec) {
		r.changed[rec.RRset()] = true
		return false, nil
	}
	if !p.reachable() {
		return true, nil
	}
	if !r.relaysPort(rec) {
		r.otherPort(p, rec)
		return true, nil
	}
	left := maxHints
	rest, changed, err := rewriteHints(rec.Rest, func(addr netip.Addr) (netip.Addr, bool, error) {
		if !r.spend(&left, 1) {
			return addr, false, nil
		}
		return r.replaceHint(p, addr, rec.TTL)
	})
	switch {
	case errors.Is(err, wire.ErrMalformed):
		r.changed[rec.RRset()] = true
		return false, nil
	case err != nil:
		return false, err
	case changed:
		r.changed[rec.RRset()] = true
		rec.Rest = rest
	}
	return true, nil
}

// replaceHint returns what stands for the address of a hint, or false if it is to be left out.
func (r *rewrite) replaceHint(p *path, addr netip.Addr, ttl uint32) (netip.Addr, bool, error) {
	if r.config.Hints == HintsStrip {
		dst, _ := r.destination(addr)
		return addr, r.decide(p, dst) == stay, nil
	}
	addr, what, err := r.replace(p, addr, ttl, role{extra: true, spare: true})
	return addr, what == stay || what == relay, err
}

// role is what an address is in a response.
type role struct {
	extra bool // clients can do without it, so that it is no reason for a new lease when addresses are short
	spare bool // clients can do without it if the relay cannot reach it
}

// replace returns what becomes of addr at the end of p, and the relay's address if that comes in its place.
func (r *rewrite) replace(p *path, addr netip.Addr, ttl uint32, is role) (netip.Addr, decision, error) {
	dst, how := r.destination(addr)
	switch what := r.decide(p, dst); {
	case what != relay:
		return addr, what, nil
	case how == tunnels, is.spare && r.config.Relay.Dead(dst):
		return addr, remove, nil
	}
	out, ok, err := r.relayAddr(p, dst, addr.Is6(), ttl, is.extra)
	if !ok {
		return addr, remove, err
	}
	return out, relay, err
}

// relayAddr asks the relay for an address that holds as long as the answer. It returns false without an error if there is
// none in this family, or if clients can do without this one and it would be a new lease beyond the bounds.
func (r *rewrite) relayAddr(p *path, dst netip.Addr, v6 bool, ttl uint32, extra bool) (netip.Addr, bool, error) {
	if !r.config.Relay.Healthy() {
		return netip.Addr{}, false, ErrRelayFailed
	}
	extra = extra || r.relayed
	refused := false
	addr, ok, err := r.answer.RelayAddr(r.ctx, dst, v6, time.Duration(r.cap(ttl))*time.Second, func(used, size uint64) bool {
		refused = !r.newLease(p, v6, extra, used, size)
		return !refused
	})
	switch {
	case refused && extra:
		return netip.Addr{}, false, nil
	case refused:
		return netip.Addr{}, false, fmt.Errorf("%w: %w", ErrRelayFailed, ErrRefused)
	case err != nil && r.relayed: // what there is has to do
		r.cut = true
		return netip.Addr{}, false, nil
	case err != nil:
		return netip.Addr{}, false, fmt.Errorf("%w: %w", ErrRelayFailed, err)
	}
	ok = ok && addr.Is6() == v6
	r.relayed = r.relayed || ok
	return addr, ok, nil
}

// newLease reports whether the relay may make a lease for an address at the end of p.
func (r *rewrite) newLease(p *path, v6, extra bool, used, size uint64) bool {
	if extra && used >= size-size/reserve {
		r.cut = true
		return false
	}
	if !r.spend(&r.leases, 1) {
		return false
	}
	if !r.pace.allow(r.client, zoneOf(p.owner), v6, used, size) {
		r.cut = true
		return false
	}
	return true
}

// dropSignatures removes the signatures of what is not what was signed, all of them if records were left out.
func (r *rewrite) dropSignatures() {
	for section, rrs := range r.m.Sections {
		r.m.Sections[section] = slices.DeleteFunc(rrs, func(a wire.Record) bool {
			return a.Type == dns.TypeRRSIG && (r.cut || r.changed[a.RRset()])
		})
	}
}
