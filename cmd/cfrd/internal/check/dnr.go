package check

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/cfrd-project/cfrd/ddr/svcb"
	"github.com/cfrd-project/cfrd/dnr"
	"github.com/cfrd-project/cfrd/dnr/survey"
)

// NetworkOptions say which link Network checks, and how.
type NetworkOptions struct {
	Interface  string         // the network interface on the link; required
	Roots      *x509.CertPool // the authorities that are trusted; nil means the system's
	Timeout    time.Duration  // of listening, and of each exchange; required
	ListenOnly bool           // does not connect to the resolvers
}

// Network asks every router and DHCP server of a link what it hands out, judges that, and tries the resolvers as a
// client would. The error says why nothing could be asked; what was found is in the report.
func Network(ctx context.Context, o NetworkOptions) (*NetworkReport, error) {
	c := dnrChecker{checker: checker{
		Options{Timeout: o.Timeout, Roots: o.Roots},
		&Report{Resolver: o.Interface, OK: true},
	}}
	result, err := survey.Run(ctx, survey.Config{Interface: o.Interface, Window: o.Timeout})
	if err != nil {
		return nil, err
	}
	c.link = result.Link
	c.judge(result)
	if !o.ListenOnly {
		c.try(ctx, result)
	}
	return &NetworkReport{c.Report, c.document(result)}, nil
}

// NetworkReport is what Network found.
type NetworkReport struct {
	*Report
	document dnrDocument
}

// WriteJSON writes the steps and everything that the servers hand out.
func (r *NetworkReport) WriteJSON(w io.Writer) error { return writeJSON(w, r.document) }

// dnrChecker makes the steps of one run on a link and adds them to the report.
type dnrChecker struct {
	checker
	link survey.Link
}

// dnrDocument is what `cfrd dnr check --json` prints. Its field names are stable.
type dnrDocument struct {
	Interface    string      `json:"interface"`
	OK           bool        `json:"ok"`
	FirstFailure string      `json:"first_failure,omitempty"` // the name of a step
	Steps        []Step      `json:"steps"`
	Servers      []dnrServer `json:"servers"`
}

// dnrServer is one message of one server.
type dnrServer struct {
	By        string            `json:"by"` // dhcpv4, dhcpv6 or ra
	Server    netip.Addr        `json:"server"`
	ID        string            `json:"id,omitempty"`
	Message   string            `json:"message"`
	Copies    int               `json:"copies"`
	Resolvers []netip.Addr      `json:"resolvers,omitempty"` // for use without encryption
	Findings  []dnr.Finding     `json:"findings,omitempty"`
	Instances []dnrInstance     `json:"instances,omitempty"`
	Clients   []survey.Reaction `json:"clients,omitempty"`
}

// dnrInstance is one designated resolver, as far as it could be read.
type dnrInstance struct {
	Priority  uint16        `json:"priority"`
	ADN       string        `json:"adn,omitempty"`
	Addresses []netip.Addr  `json:"addresses,omitempty"`
	ALPN      []string      `json:"alpn,omitempty"`
	Port      uint16        `json:"port,omitempty"` // 0 means the default ones
	DoHPath   string        `json:"dohpath,omitempty"`
	Lifetime  *uint32       `json:"lifetime,omitempty"` // seconds; only in Router Advertisements
	Findings  []dnr.Finding `json:"findings,omitempty"`
}

// document returns what `cfrd dnr check --json` prints about the survey s.
func (c dnrChecker) document(s survey.Result) dnrDocument {
	d := dnrDocument{
		Interface: c.link.Interface, OK: c.OK, FirstFailure: c.FirstFailure, Steps: c.Steps, Servers: []dnrServer{},
	}
	for _, h := range s.Messages {
		server := dnrServer{
			By: h.By.String(), Server: h.Server, ID: h.ID, Message: h.Kind, Copies: h.Copies, Resolvers: h.Resolvers,
			Findings: h.Findings,
		}
		for _, in := range h.Instances {
			server.Instances = append(server.Instances, instanceOf(h.By, in))
		}
		if len(h.Instances) > 0 {
			server.Clients = survey.Clients(h)
		}
		d.Servers = append(d.Servers, server)
	}
	return d
}

// instanceOf returns an instance of an option of the given form as the document has it.
func instanceOf(form dnr.Form, in dnr.Inspection) dnrInstance {
	r := svcb.Record{Params: in.Params}
	i := dnrInstance{
		Priority: in.Priority, ADN: in.ADN, Addresses: in.Addresses, ALPN: r.ALPN(), Port: r.Port(), DoHPath: r.DoHPath(),
		Findings: in.Findings,
	}
	if form == dnr.RA {
		seconds := uint32(in.Lifetime / time.Second)
		i.Lifetime = &seconds
	}
	return i
}

// source names a message in steps: how and from whom it came.
func source(h survey.Message) string { return fmt.Sprintf("%s %s", h.By, h.Server) }
