package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// The demo's names and addresses are fixed, so that people can learn them. Only ports can be moved.
const (
	demoResolverName = "dns.demo.test"
	demoSteeredName  = "steered.demo.test"
	demoDirectName   = "direct.demo.test"
	demoOuterName    = "cover.demo.test" // in the clear in every ClientHello with ECH
)

var (
	demoResolverAddr = netip.MustParseAddr("127.0.0.1")
	demoOriginAddr   = netip.MustParseAddr("127.70.0.1")
	demoCustomerAddr = netip.MustParseAddr("127.60.0.2")
	demoRelayPrefix  = netip.MustParsePrefix("127.80.0.0/16")
	demoEgressPrefix = netip.MustParsePrefix("127.90.0.0/16")
)

// demoPorts are where the demo listens.
type demoPorts struct {
	do53, dot, doh, doq, admin, origin uint16
}

// newDemoCommand returns `cfrd demo`.
func newDemoCommand() *cobra.Command {
	var (
		ports demoPorts
		once  bool
	)
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run everything on loopback and make a customer's journey",
		Long: `Run a resolver, a relay, an upstream zone and an origin on loopback, unprivileged and offline, and make a
customer's journey through them, printing what was really observed. Then stay up, to be dug and curled, until
Ctrl-C. --once ends after the journey; the exit code is 1 if any step did not hold.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDemo(cmd.Context(), cmd.OutOrStdout(), ports, once)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&once, "once", false, "end after the journey")
	f.Uint16Var(&ports.do53, "do53-port", 5300, "port of Do53, UDP and TCP")
	f.Uint16Var(&ports.dot, "dot-port", 8853, "port of DoT, TCP")
	f.Uint16Var(&ports.doq, "doq-port", 8853, "port of DoQ, UDP")
	f.Uint16Var(&ports.doh, "doh-port", 8443, "port of DoH, TCP and UDP")
	f.Uint16Var(&ports.admin, "admin-port", 9153, "port of metrics and health")
	f.Uint16Var(&ports.origin, "origin-port", 4443, "port of the origin and the relay, TCP and UDP")
	return cmd
}

// runDemo starts the stage, makes the journey, and keeps the stage up until ctx is done unless once is set.
func runDemo(ctx context.Context, out io.Writer, ports demoPorts, once bool) (err error) {
	dir, err := os.MkdirTemp("", "cfrd-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := newDemoStage(ports, dir)
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

// journey is a customer's way through the stage, told as it happens.
type journey struct {
	stage *demoStage
	out   io.Writer
	step  int

	// what the steps find out for those after them
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

func (j *journey) introduce() {
	p := j.stage.ports
	fmt.Fprintf(j.out, `cfrd demo: everything in one process, on loopback, unprivileged and offline

   resolver  %-18s %v: Do53 on %d, DoT on %d/tcp, DoQ on %d/udp, DoH on %d
   relay                        %v on port %d, TCP and UDP, leaving from %v
   origin    %-18s %v:%d, and the same is %s
   customer                     %v
`, demoResolverName, demoResolverAddr, p.do53, p.dot, p.doq, p.doh, demoRelayPrefix, p.origin, demoEgressPrefix,
		demoSteeredName, demoOriginAddr, p.origin, demoDirectName, demoCustomerAddr)
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
`, demoResolverAddr, p.do53, p.dot, p.doq, p.doh, ca, demoResolverName, demoSteeredName, demoDirectName, p.origin, p.admin)
}
