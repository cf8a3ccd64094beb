package zones

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Rule says that what it matches is steered, or with Pass that it is not. Suffixes, Prefixes and ECH are kinds of
// conditions: of each kind that is given, one must hold. A rule without any is invalid.
type Rule struct {
	// Suffixes match a name of the CNAME chain that equals one of them or is below it: "cdn.example" matches
	// cdn.example and www.cdn.example, not mycdn.example. "." matches every name. Leading labels that begin with an
	// underscore (Attrleaf, RFC 8552) are not part of the name for this.
	Suffixes []string
	// Prefixes match the address.
	Prefixes []netip.Prefix
	// ECH matches names with an HTTPS record that carries ech. See RFC 9848.
	ECH bool
	// Pass turns the rule into an exception: what it matches is not steered.
	Pass bool
}

// Policy decides by rules which addresses are steered. It is immutable, and so safe for concurrent use.
type Policy struct {
	rules      []rule
	bySuffix   map[string][]int // suffix with final dot -> indices of rules, ascending
	suffixless []int            // indices of the rules without suffixes, ascending
	special    func(netip.Addr) bool
	allowed    *prefixSet // special-purpose blocks that may be steered all the same
}

// rule is a Rule without its suffixes, which are in Policy.bySuffix.
type rule struct {
	prefixes    *prefixSet
	hasSuffixes bool
	root        bool // "." is among the suffixes
	hasPrefixes bool
	ech         bool
	pass        bool
}

// NewPolicy validates rules and compiles them. The first rule that matches decides; what none matches is not
// steered. Addresses that special reports are never steered, whatever the rules say, unless allowSpecial contains
// them: the relay does not connect to special-purpose addresses, and which those are is for it to say. Errors begin
// with the place: "rules[2].suffixes[0]: …".
func NewPolicy(rules []Rule, special func(netip.Addr) bool, allowSpecial []netip.Prefix) (*Policy, error) {
	p := &Policy{bySuffix: make(map[string][]int), special: special}
	for i, r := range rules {
		if err := p.add(i, r); err != nil {
			return nil, fmt.Errorf("rules[%d]%w", i, err)
		}
	}
	if err := checkPrefixes(allowSpecial); err != nil {
		return nil, fmt.Errorf("allow_special%w", err)
	}
	var err error
	if p.allowed, err = newPrefixSet(allowSpecial); err != nil {
		return nil, fmt.Errorf("allow_special: %w", err)
	}
	return p, nil
}

// add compiles the rule with index i.
func (p *Policy) add(i int, r Rule) error {
	if len(r.Suffixes) == 0 && len(r.Prefixes) == 0 && !r.ECH {
		return fmt.Errorf(": %w", errMatchesNothing)
	}
	if err := checkPrefixes(r.Prefixes); err != nil {
		return fmt.Errorf(".prefixes%w", err)
	}
	set, err := newPrefixSet(r.Prefixes)
	if err != nil {
		return fmt.Errorf(".prefixes: %w", err)
	}
	root := false
	for j, s := range r.Suffixes {
		suffix, err := canonicalSuffix(s)
		if err != nil {
			return fmt.Errorf(".suffixes[%d]: %q %w", j, s, err)
		}
		root = root || suffix == "."
		if of := p.bySuffix[suffix]; len(of) == 0 || of[len(of)-1] != i {
			p.bySuffix[suffix] = append(of, i)
		}
	}
	if len(r.Suffixes) == 0 {
		p.suffixless = append(p.suffixless, i)
	}
	p.rules = append(p.rules, rule{
		prefixes:    set,
		hasSuffixes: len(r.Suffixes) > 0,
		root:        root,
		hasPrefixes: len(r.Prefixes) > 0,
		ech:         r.ECH,
		pass:        r.Pass,
	})
	return nil
}

// Rules returns the rules whose suffixes match one of names, and those without suffixes, in ascending order, for Steer
// and Scope. names are in lower case with a final dot. This is where every label of every name is looked at, so that
// callers do it once for all addresses that names lead to.
func (p *Policy) Rules(names []string) []int {
	var buf [maxHits][]int
	c := p.candidates(names, buf[:0])
	if len(c.lists) == 1 {
		return slices.Clip(c.lists[0])
	}
	var rules []int
	for {
		i, ok := c.next()
		if !ok {
			return rules
		}
		rules = append(rules, i)
	}
}

// Steer reports whether addr is to be steered, and whether a rule said so, either way. rules are what Rules returned
// for the names that lead to addr. hasECH is called at most once, and only if a rule depends on it.
func (p *Policy) Steer(rules []int, addr netip.Addr, hasECH func() bool) (steer, matched bool) {
	if p.special(addr) && !p.allowed.contains(addr) {
		return false, true
	}
	ech := unknown
	for _, i := range rules {
		r := &p.rules[i]
		if r.hasPrefixes && !r.prefixes.contains(addr) || r.ech && !ech.ask(hasECH) {
			continue
		}
		return !r.pass, true
	}
	return false, false
}

// Scope reports what steering can depend on, if rules are what Rules returned for names whose HTTPS record carries ech
// or does not: listed, on names that the operator has listed, which "." does not do; byName on any names or on ech;
// byAddr on the address alone. If none holds, Steer says no for every address.
func (p *Policy) Scope(rules []int, ech bool) (listed, byName, byAddr bool) {
	for _, i := range rules {
		r := &p.rules[i]
		switch {
		case r.ech && !ech:
			continue
		case !r.pass && (r.hasSuffixes || r.ech):
			listed, byName = listed || r.hasSuffixes && !r.root, true
		case !r.pass:
			byAddr = true
		}
		if !r.hasPrefixes { // nothing gets past this rule
			return listed, byName, byAddr
		}
	}
	return listed, byName, byAddr
}

// tristate remembers the answer to a question that may be expensive.
type tristate uint8

const (
	unknown tristate = iota
	no
	yes
)

func (t *tristate) ask(f func() bool) bool {
	if *t == unknown {
		*t = no
		if f() {
			*t = yes
		}
	}
	return *t == yes
}

// maxHits is how many suffixes can match the names of one question before Rules allocates for the lists of them. Real chains have two or
// three names of three or four labels, and few of those suffixes are in rules.
const maxHits = 16

// candidates is the merge of ascending lists of rule indices.
type candidates struct {
	lists [][]int
	last  int // index returned last, or -1
}

// candidates returns the rules whose suffixes, if any, match names. It appends to buf.
func (p *Policy) candidates(names []string, buf [][]int) candidates {
	if len(p.suffixless) > 0 {
		buf = append(buf, p.suffixless)
	}
	if len(p.bySuffix) == 0 {
		return candidates{buf, -1}
	}
	for _, name := range names {
		for s := stripAttrleaf(name); ; s = parent(s) {
			if hits := p.bySuffix[s]; hits != nil {
				buf = append(buf, hits)
			}
			if s == "." {
				break
			}
		}
	}
	return candidates{buf, -1}
}

// next returns the lowest index that is higher than the one before.
func (c *candidates) next() (index int, ok bool) {
	for i, l := range c.lists {
		for len(l) > 0 && l[0] <= c.last {
			l = l[1:]
		}
		c.lists[i] = l
		if len(l) > 0 && (!ok || l[0] < index) {
			index, ok = l[0], true
		}
	}
	c.last = index
	return index, ok
}

// parent returns name, which is not the root, without its first label.
func parent(name string) string {
	i, end := dns.NextLabel(name, 0)
	if end {
		return "."
	}
	return name[i:]
}

// stripAttrleaf returns the name behind leading labels that begin with an underscore: browsers ask for
// _8443._https.shop.example, stub resolvers for _dns.isp.example. See RFC 8552 and RFC 9460, Section 2.3.
func stripAttrleaf(name string) string {
	for strings.HasPrefix(name, "_") {
		name = parent(name)
	}
	return name
}

// canonicalSuffix returns s in lower case with a final dot. It takes only letters, digits, hyphens and underscores,
// which is what destinations are called; other octets would have several spellings.
func canonicalSuffix(s string) (string, error) {
	switch {
	case s == ".":
		return s, nil
	case s == "":
		return "", errors.New("is empty")
	case strings.HasPrefix(s, "*.") || s[0] == '.':
		return "", fmt.Errorf("begins with a wildcard or dot; %q already matches every name below it", strings.TrimLeft(s, "*."))
	case s[0] == '_':
		return "", errors.New("begins with an underscore label, which rules look through; give the name behind it")
	}
	for _, r := range s {
		if !isHostRune(r) {
			return "", fmt.Errorf("contains %q; use letters, digits, hyphens and dots (internationalized names as xn--)", r)
		}
	}
	if _, ok := dns.IsDomainName(s); !ok {
		return "", errors.New("is not a domain name")
	}
	return dns.Fqdn(strings.ToLower(s)), nil
}

// isHostRune reports whether r may be in a suffix.
func isHostRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.'
}

// checkPrefixes refuses prefixes that would silently match less or more than they seem to.
func checkPrefixes(prefixes []netip.Prefix) error {
	for i, p := range prefixes {
		switch {
		case !p.IsValid():
			return fmt.Errorf("[%d]: not a prefix", i)
		case p != p.Masked():
			return fmt.Errorf("[%d]: %s has host bits set; write %s", i, p, p.Masked())
		}
	}
	return nil
}
