// Package demo runs a resolver, a relay, an upstream and an origin on loopback, and makes a customer's journey through
// them: discovery, a question over every transport, a steered name and one that is not, a page through the relay and one
// that is not, and who saw whom. It prints what was really observed, and says which step did not hold.
//
// The node is an ordinary one, made by a function of the caller from a configuration file that this package writes; the
// upstream and the origin are its own. Everything is bound at fixed loopback addresses, on ports of the caller's choice,
// in one process without rights. It needs Linux.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"
)

// The names and addresses are fixed, so that texts can name them. Only ports can be moved.
const (
	resolverName = "dns.demo.test"
	steeredName  = "steered.demo.test"
	directName   = "direct.demo.test"
	outerName    = "cover.demo.test" // in the clear in every ClientHello with ECH
)

var (
	resolverAddr = netip.MustParseAddr("127.0.0.1")
	originAddr   = netip.MustParseAddr("127.70.0.1")
	customerAddr = netip.MustParseAddr("127.60.0.2")
	relayPrefix  = netip.MustParsePrefix("127.80.0.0/16")
	egressPrefix = netip.MustParsePrefix("127.90.0.0/16")
)

// Ports are where the demo listens. Each must be free at the address of its service; Origin must be so for TCP and UDP
// at every address of the host, because the relay listens there.
type Ports struct {
	Do53, DoT, DoH, DoQ, Admin uint16 // of the resolver
	Origin                     uint16 // of the origin, and of the relay
}

// DefaultPorts returns ports that need no rights and that the kernel does not pick for outgoing connections.
func DefaultPorts() Ports {
	return Ports{Do53: 5300, DoT: 8853, DoQ: 8853, DoH: 8443, Admin: 9153, Origin: 4443}
}

// Node is a resolver with a relay whose listeners are bound.
type Node interface {
	// Run serves until ctx is done, and returns once all listeners are closed.
	Run(ctx context.Context) error
}

// NewNode makes a node from the configuration file at path.
type NewNode func(path string) (Node, error)

// Run makes the journey, prints it to out, and keeps everything up until ctx is done unless once is set. The error says
// what could not be bound, or which steps did not hold.
func Run(ctx context.Context, out io.Writer, ports Ports, once bool, newNode NewNode) (err error) {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("the demo needs Linux, as the relay does: %w", errors.ErrUnsupported)
	}
	dir, err := os.MkdirTemp("", "cfrd-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := newStage(ports, dir, newNode)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-ended)
	}()

	j := &journey{stage: s, out: out}
	failed := j.make(ctx)
	if once || ctx.Err() != nil {
		return failed
	}
	j.invite()
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		ended <- nil
		return err
	}
}

// journey is a customer's way through the stage. It prints each step as it happens.
type journey struct {
	stage *stage
	out   io.Writer
	step  int

	// set by steps for those after them
	relay   netip.Addr // stands for the origin
	ech     []byte     // ECHConfigList of the steered name
	sources []netip.AddrPort
	seen    privacyTable
}

// make goes through all steps, and returns an error if one did not hold.
func (j *journey) make(ctx context.Context) error {
	j.introduce()
	var failed []string
	for _, s := range []struct {
		title string
		f     func(context.Context) error
	}{
		{"The customer knows one address, and asks it who it is (DDR, RFC 9462)", j.discover},
		{"The same question over every transport", j.transports},
		{"A steered name and one that is not", j.steering},
		{"A page over TLS 1.3 with Encrypted Client Hello, through the relay", j.visitTLS},
		{"The same page over QUIC, through the relay", j.visitQUIC},
		{"The page that is not steered, for comparison", j.visitDirect},
		{"Who saw whom", j.privacy},
	} {
		j.step++
		fmt.Fprintf(j.out, "\n%d. %s\n", j.step, s.title)
		stepCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := s.f(stepCtx)
		cancel()
		if err != nil {
			fmt.Fprintf(j.out, "   FAILED: %v\n", err)
			failed = append(failed, fmt.Sprint(j.step))
			continue
		}
		fmt.Fprintf(j.out, "   ok\n")
	}
	if len(failed) > 0 {
		return fmt.Errorf("step %s did not hold", strings.Join(failed, ", "))
	}
	return nil
}

// sayf prints one line of a step.
func (j *journey) sayf(format string, args ...any) {
	fmt.Fprintf(j.out, "   "+format+"\n", args...)
}

// introduce prints who is where.
func (j *journey) introduce() {
	p := j.stage.ports
	fmt.Fprintf(j.out, `cfrd demo: everything in one process, on loopback, unprivileged and offline

   resolver  %-18s %v: Do53 on %d, DoT on %d/tcp, DoQ on %d/udp, DoH on %d
   relay                        %v on port %d, TCP and UDP, leaving from %v
   origin    %-18s %v:%d, and the same is %s
   customer                     %v
`, resolverName, resolverAddr, p.Do53, p.DoT, p.DoQ, p.DoH, relayPrefix, p.Origin, egressPrefix,
		steeredName, originAddr, p.Origin, directName, customerAddr)
}

// invite prints commands to paste.
func (j *journey) invite() {
	p, ca := j.stage.ports, j.stage.caFile
	fmt.Fprintf(j.out, `
It all stays up until Ctrl-C. To paste into another terminal:

   dig @%[1]v -p %[2]d _dns.resolver.arpa SVCB
   dig @%[1]v -p %[2]d %[8]s A
   dig @%[1]v -p %[2]d %[8]s HTTPS
   dig @%[1]v -p %[2]d %[9]s A
   kdig @%[1]v -p %[3]d +tls-ca=%[6]s +tls-hostname=%[7]s +tls %[8]s
   kdig @%[1]v -p %[4]d +tls-ca=%[6]s +tls-hostname=%[7]s +quic %[8]s
   kdig @%[1]v -p %[5]d +tls-ca=%[6]s +tls-hostname=%[7]s +https %[8]s
   curl --cacert %[6]s --resolve %[7]s:%[5]d:%[1]v --doh-url https://%[7]s:%[5]d/dns-query https://%[8]s:%[10]d/
   curl -s http://%[1]v:%[11]d/metrics | grep cfrd_relay
`, resolverAddr, p.Do53, p.DoT, p.DoQ, p.DoH, ca, resolverName, steeredName, directName, p.Origin, p.Admin)
}
