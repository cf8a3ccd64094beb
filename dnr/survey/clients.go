package survey

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr"
)

// Reaction is what one known client makes of a server's message.
type Reaction struct {
	// Client names the program; Basis says how its behaviour is known.
	Client string `json:"client"`
	Basis  string `json:"basis"`
	// Unverified says that no test has shown this behaviour.
	Unverified bool `json:"unverified,omitempty"`
	// Uses are the instances that the client uses, in its order of preference.
	Uses []Use `json:"uses,omitempty"`
	// Reasons are why it does not use the others, or ignores the whole message.
	Reasons []string `json:"reasons,omitempty"`
}

// Use is how a client uses an instance.
type Use struct {
	Instance int      `json:"instance"` // counted from 1
	ALPN     []string `json:"alpn"`     // protocols that it would use
}

// client is what is known of one client.
type client struct {
	name, basis string
	unverified  bool
	alpn        []string // protocols that it uses
	// judge returns what the client makes of an instance, whatever others there are.
	judge func(dnr.Form, dnr.Inspection) judgement
}

// judgement is what a client makes of an instance.
type judgement struct {
	verdict verdict
	why     string // empty if it is taken
}

type verdict uint8

const (
	taken   verdict = iota
	skipped         // alone
	refused         // with all other instances of the same option of DHCPv4
)

// clients returns those of which anything is known. Android, NetworkManager and dhcpcd ignore the option.
func clients() []client {
	return []client{
		{name: "systemd-networkd 257 and later", basis: "source code", alpn: []string{"dot"}, judge: judgeSystemd},
		{
			name: "Apple", basis: "source code; which versions of iOS and macOS is unverified", alpn: []string{"dot", "h2"},
			judge: judgeApple,
		},
		{
			name: "Windows 11", basis: "one report by a third party, unverified", unverified: true,
			alpn: []string{"h2", "h3"}, judge: judgeWindows,
		},
	}
}

// Clients returns what known clients make of a message: which instances they use, over which protocols, and why not the
// others.
func Clients(h Message) []Reaction {
	var list []Reaction
	for _, c := range clients() {
		list = append(list, c.react(h))
	}
	return list
}

func (c client) react(h Message) Reaction {
	r := Reaction{Client: c.name, Basis: c.basis, Unverified: c.unverified}
	if h.Err() != nil {
		r.Reasons = []string{"it ignores the whole message"}
		return r
	}
	var not reasons
	for i, in := range h.Instances {
		j := c.judge(h.By, in)
		ids := c.speaks(in)
		switch {
		case j.verdict == refused && h.By == dnr.DHCPv4 && len(h.Instances) > 1:
			r.Uses = nil
			r.Reasons = []string{fmt.Sprintf("it ignores all %d instances of the option because of instance %d: %s",
				len(h.Instances), i+1, j.why)}
			return r
		case j.verdict != taken:
			not.Add(i+1, j.why)
		case len(ids) == 0:
			not.Add(i+1, fmt.Sprintf("it uses %s only", strings.Join(c.alpn, ", ")))
		default:
			r.Uses = append(r.Uses, Use{Instance: i + 1, ALPN: ids})
		}
	}
	r.Reasons = not.list()
	slices.SortStableFunc(r.Uses, func(a, b Use) int {
		return int(h.Instances[a.Instance-1].Priority) - int(h.Instances[b.Instance-1].Priority)
	})
	return r
}

// reasons collects why instances are not used, in the order in which the reasons were found.
type reasons struct {
	order     []string
	instances map[string][]string // numbers by reason
}

func (r *reasons) Add(instance int, why string) {
	if r.instances == nil {
		r.instances = make(map[string][]string)
	}
	if r.instances[why] == nil {
		r.order = append(r.order, why)
	}
	r.instances[why] = append(r.instances[why], strconv.Itoa(instance))
}

// list returns one sentence for each reason.
func (r *reasons) list() (list []string) {
	for _, why := range r.order {
		numbers, word := r.instances[why], "instance"
		if len(numbers) > 1 {
			word = "instances"
		}
		list = append(list, fmt.Sprintf("%s %s: %s", word, strings.Join(numbers, ", "), why))
	}
	return list
}

// speaks returns the protocols of the instance that the client uses, in the instance's order.
func (c client) speaks(in dnr.Inspection) []string {
	return slices.DeleteFunc(svcb.Record{Params: in.Params}.ALPN(), func(id string) bool {
		return !slices.Contains(c.alpn, id) || svcb.IsHTTP(id) && svcb.Record{Params: in.Params}.DoHPath() == ""
	})
}

// first returns the first of the findings that f selects.
func first(i dnr.Inspection, f func(dnr.Finding) bool) (dnr.Finding, bool) {
	at := slices.IndexFunc(i.Findings, f)
	if at < 0 {
		return dnr.Finding{}, false
	}
	return i.Findings[at], true
}

// judgeSystemd follows dhcp_lease, dhcp6_lease and ndisc_option of systemd: it refuses what breaks RFC 9463, and more.
func judgeSystemd(form dnr.Form, in dnr.Inspection) judgement {
	strict := []string{dnr.CodeADNSyntax, dnr.CodeNoALPN, dnr.CodeMandatory, dnr.CodePortZero, dnr.CodeDoHPathSyntax}
	wrong, found := first(in, func(f dnr.Finding) bool {
		return f.Err != nil && f.Code != dnr.CodePriorityZero || slices.Contains(strict, f.Code)
	})
	record := svcb.Record{Params: in.Params}
	http := slices.ContainsFunc(record.ALPN(), func(id string) bool { return id == "h2" || id == "h3" })
	switch {
	case found:
		return judgement{refused, wrong.Text}
	case slices.ContainsFunc(in.Addresses, isNoHost):
		return judgement{refused, "an address is a multicast or loopback address"}
	case in.ADNOnly():
		return judgement{skipped, "it has only a name"}
	case http && record.DoHPath() == "":
		return judgement{refused, "dohpath is missing beside h2 or h3"}
	case in.Priority == 0:
		return judgement{skipped, "its priority is 0"}
	case form == dnr.RA && in.Lifetime == 0:
		return judgement{skipped, "its lifetime is 0"}
	}
	return judgement{}
}

func isNoHost(a netip.Addr) bool { return a.IsMulticast() || a.IsLoopback() }

// judgeApple follows the decoders of macOS, which do not look into the service parameters.
func judgeApple(form dnr.Form, in dnr.Inspection) judgement {
	opaque := []string{dnr.CodeSvcParams, dnr.CodeASCIIParams, dnr.CodeHints, dnr.CodePriorityZero, dnr.CodePadding}
	wrong, found := first(in, func(f dnr.Finding) bool {
		return f.Err != nil && !slices.Contains(opaque, f.Code) || f.Code == dnr.CodeADNOnly || f.Code == dnr.CodeManyAddresses
	})
	switch {
	case found:
		return judgement{refused, wrong.Text}
	case form == dnr.RA && in.Lifetime == 0:
		return judgement{skipped, "its lifetime is 0"}
	case !in.Readable() || len(svcb.Record{Params: in.Params}.ALPN()) == 0:
		return judgement{skipped, "its service parameters name no protocol"}
	}
	return judgement{}
}

// judgeWindows assumes RFC 9463, because nothing else is known.
func judgeWindows(form dnr.Form, in dnr.Inspection) judgement {
	switch {
	case in.Err() != nil:
		wrong, _ := first(in, func(f dnr.Finding) bool { return f.Err != nil })
		return judgement{refused, wrong.Text}
	case form == dnr.RA && in.Lifetime == 0:
		return judgement{skipped, "its lifetime is 0"}
	case in.ADNOnly():
		return judgement{skipped, "it has only a name"}
	}
	return judgement{}
}
