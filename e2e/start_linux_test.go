package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestStartsBeforeItsAddresses starts the binary with addresses of both families that the host gets later, of the admin
// pages too, beside others that it has: those serve at once, and the later ones as soon as they are there. Discovery
// names them no earlier.
func TestStartsBeforeItsAddresses(t *testing.T) {
	need(t, "kdig", "curl")
	const later4, later6 = "10.0.0.54", "2001:db8:1::54"
	for name, freebind := range map[string]string{"bound-beforehand": "true", "waited-for": "false"} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			ca := l.newAuthority()
			l.serveZones(ca)
			var lists []string
			for _, p := range []struct{ key, port string }{{"do53", "53"}, {"dot", "853"}, {"doh", "443"}, {"doq", "853"}} {
				lists = append(lists, fmt.Sprintf(`%s: ["%s:%s", "%s:%[3]s", "[%[5]s]:%[3]s", "[%[6]s]:%[3]s"]`,
					p.key, resolver4, p.port, later4, resolver6, later6))
			}
			listen := fmt.Sprintf(`{%s, admin: "%s:9153", freebind: %s}`, strings.Join(lists, ", "), later4, freebind)
			d := l.launchCfrd(l.config(ca, settings{listen: listen}))
			ask := func(addr string, more ...string) error {
				args := append([]string{"+short", "+timeout=1", "+retry=0", "@" + addr, "www.isp.example", "A"}, more...)
				if out, err := l.customer.try("kdig", args...); err != nil || !strings.Contains(out, resolver4) {
					return fmt.Errorf("kdig %v: %v %s", args, err, out)
				}
				return nil
			}
			ways := [][]string{{}, {"+tcp"}, {"+tls"}, {"+https"}}
			all := func(addrs ...string) error {
				var errs []error
				for _, addr := range addrs {
					for _, way := range ways {
						errs = append(errs, ask(addr, way...))
					}
				}
				return errors.Join(errs...)
			}
			poll(t, 20*time.Second, "what is there serves", func() error { return all(resolver4, resolver6) })
			if out := d.output.String(); !strings.Contains(out, "does not have the address yet") || !strings.Contains(out, later4+":9153") {
				t.Errorf("the log does not name the addresses that are missing:\n%s", out)
			}
			named := func() string {
				return l.customer.must("kdig", "+tcp", "@"+resolver4, "_dns.resolver.arpa", "SVCB")
			}
			if out := named(); strings.Contains(out, later4) || strings.Contains(out, later6) {
				t.Errorf("discovery names addresses that are not there:\n%s", out)
			}

			l.provider.must("ip", "addr", "add", later4+"/24", "dev", "access")
			l.provider.must("ip", "addr", "add", later6+"/64", "dev", "access")
			poll(t, 20*time.Second, "what has come serves", func() error { return all(later4, later6) })
			poll(t, 20*time.Second, "the admin pages are there", func() error {
				out, err := l.provider.try("curl", "-sf", "http://"+later4+":9153/readyz")
				if err == nil && out != "ready\n" {
					err = errors.New(out)
				}
				return err
			})
			poll(t, 20*time.Second, "discovery names the addresses", func() error {
				if out := named(); !strings.Contains(out, later4) || !strings.Contains(out, later6) {
					return errors.New(out)
				}
				return nil
			})
		})
	}
}

// TestStartsWithoutCertificate starts the binary before there is a certificate, and writes that later: names resolve at
// once, and the encrypted transports and discovery follow without a restart.
func TestStartsWithoutCertificate(t *testing.T) {
	need(t, "kdig", "curl")
	l := newLab(t)
	ca := l.newAuthority()
	l.serveZones(ca)
	cfg := l.config(ca, settings{})
	cert, _ := l.cfrdCertificate(ca)
	if err := os.Rename(cert, cert+".later"); err != nil {
		t.Fatal(err)
	}
	d := l.startCfrd(cfg)
	for _, addr := range []string{resolver4, resolver6} {
		if out := l.customer.must("kdig", "+short", "@"+addr, "www.isp.example", "A"); !strings.Contains(out, resolver4) {
			t.Errorf("at %s: got %q; want %s", addr, out, resolver4)
		}
		if out := l.customer.must("kdig", "+short", "@"+addr, "_dns.resolver.arpa", "SVCB"); out != "" {
			t.Errorf("at %s: discovery says %q; want nothing", addr, out)
		}
	}
	if out := l.provider.must("curl", "-sf", "http://127.0.0.1:9153/readyz"); !strings.Contains(out, "the certificate is not used: open "+cert) {
		t.Errorf("/readyz: got %q; want why there is no certificate", out)
	}
	if err := os.Rename(cert+".later", cert); err != nil {
		t.Fatal(err)
	}
	poll(t, 20*time.Second, "DoT and discovery", func() error {
		out, err := l.customer.try("kdig", "+short", "+timeout=1", "+retry=0", "+tls", "@"+resolver4, "_dns.resolver.arpa", "SVCB")
		if err == nil && out == "" {
			err = errors.New("no record")
		}
		return err
	})
	if out := d.output.String(); !strings.Contains(out, "encrypted transports wait for one") {
		t.Errorf("the log does not say why:\n%s", out)
	}
}
