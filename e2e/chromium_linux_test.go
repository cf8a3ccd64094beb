package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestChromium gives a browser our DoH by managed policy, and nothing else, and has it load a page from a steered
// origin.
func TestChromium(t *testing.T) {
	need(t, "chromium", "certutil")
	l := newLab(t)
	d, ca := l.serveAll(settings{})
	home := filepath.Join(l.dir, "home")
	nss := filepath.Join(home, ".pki", "nssdb")
	if err := os.MkdirAll(nss, 0o700); err != nil {
		t.Fatal(err)
	}
	runIn(t, home, "certutil", "-d", "sql:"+nss, "-N", "--empty-password")
	runIn(t, home, "certutil", "-d", "sql:"+nss, "-A", "-t", "C,,", "-n", "e2e", "-i", ca.file)
	l.write("policies/managed/cfrd.json", fmt.Sprintf(
		`{"DnsOverHttpsMode": "secure", "DnsOverHttpsTemplates": "https://%s/dns-query{?dns}"}`, adn))
	// The one name that DoH cannot tell: the resolver's own. ip netns exec puts these files over those in /etc.
	hosts := l.write("hosts", "127.0.0.1 localhost\n"+resolver4+" "+adn+"\n")
	dump := l.startCapture()

	script := fmt.Sprintf(`set -e
mkdir -p /etc/chromium/policies/managed
mount --bind %[1]s/policies /etc/chromium/policies
mount --bind %[2]s /etc/hosts
HOME=%[3]s exec chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
  --disable-component-update --disable-sync --user-data-dir=%[3]s/profile --dump-dom https://www.cdn.example/`,
		l.dir, hosts, home)
	browser := l.customer.start("unshare", "-m", "bash", "-c", script)
	if err := browser.wait(60 * time.Second); err != nil {
		t.Fatalf("chromium: %v", err)
	}
	if !strings.Contains(browser.output.String(), "the page of the origin") {
		t.Errorf("got:\n%s\nwant the page", browser.output)
	}
	wantEgress(t, l.originClients("www.cdn.example"))
	if n := dump.count(ofCustomer); n != 0 {
		t.Errorf("got %d packets with the customer's address; want none", n)
	}
	if got := d.metric(`cfrd_queries_total{transport="doh"}`); got == "" || got == "0" {
		t.Errorf("got %q queries over DoH; want some", got)
	}
}
