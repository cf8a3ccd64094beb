package main

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
)

func TestHealthAndReadiness(t *testing.T) {
	l := newLab(t)
	l.serveUpstream(t)
	n, _ := l.start(t)

	if status, body := l.get(t, "/healthz"); status != http.StatusOK || body != "alive\n" {
		t.Errorf("/healthz: got %d %q; want 200 alive", status, body)
	}
	eventually(t, "readiness", func() bool { return len(n.notReady()) == 0 })
	if status, body := l.get(t, "/readyz"); status != http.StatusOK || body != "ready\n" {
		t.Errorf("/readyz: got %d %q; want 200 ready", status, body)
	}

	n.phase.Store(phaseDraining)
	status, body := l.get(t, "/readyz")
	if want := "draining\n"; status != http.StatusServiceUnavailable || body != want {
		t.Errorf("/readyz while draining: got %d %q; want 503 %q", status, body, want)
	}
}

func TestReadinessWithExpiredCertificate(t *testing.T) {
	l := newLab(t)
	l.serveUpstream(t)
	n, _ := l.start(t)
	eventually(t, "readiness", func() bool { return len(n.notReady()) == 0 })

	expired := *n.certs.Current()
	leaf := *expired.Leaf
	leaf.NotAfter = leaf.NotBefore
	expired.Leaf = &leaf
	n.certs.Replace(&expired)
	status, body := l.get(t, "/readyz")
	if want := "the certificate is not valid now\n"; status != http.StatusServiceUnavailable || body != want {
		t.Errorf("/readyz: got %d %q; want 503 %q", status, body, want)
	}
}

func TestMetrics(t *testing.T) {
	l := newLab(t)
	n, _ := l.start(t)
	status, body := l.get(t, "/metrics")
	if status != http.StatusOK {
		t.Fatalf("got status %d; want 200", status)
	}
	for _, want := range []string{
		`cfrd_queries_total{transport="doh3"} 0`,
		`cfrd_responses_total{rcode="NXDOMAIN"} 0`,
		"cfrd_certificate_expiry_timestamp_seconds ",
		"cfrd_build_info{", "go_goroutines", "process_open_fds",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if strings.Contains(body, "cfrd_relay_") {
		t.Error("/metrics has relay metrics, but there is no relay")
	}
	problems, err := testutil.GatherAndLint(newRegistry(n))
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: got %v, error %v; want nothing", problems, err)
	}
}

func TestAdminPages(t *testing.T) {
	l := newLab(t)
	l.config["admin"] = "{pprof: true}"
	l.start(t)
	for path, want := range map[string]int{
		"/debug/pprof/": http.StatusOK,
		"/":             http.StatusNotFound,
		"/metrics/x":    http.StatusNotFound,
	} {
		if status, _ := l.get(t, path); status != want {
			t.Errorf("%s: got status %d; want %d", path, status, want)
		}
	}
}

func TestNoPprofByDefault(t *testing.T) {
	l := newLab(t)
	l.start(t)
	if status, _ := l.get(t, "/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("got status %d; want 404", status)
	}
}

// TestAdminLogHasNoAddresses has a page fail, which net/http reports with the client's address.
func TestAdminLogHasNoAddresses(t *testing.T) {
	addr, log := netip.AddrPortFrom(loopback(t), 9153), &logBuffer{}
	broken := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oops") })
	a, err := newAdminServer(addr, true, broken, zerolog.New(log))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Errorf("got status %d; want the connection closed", resp.StatusCode)
	}
	eventually(t, "the fault in the log", func() bool { return log.contains("oops") })
	if text := strings.Join(log.lines(), "\n"); strings.Contains(text, "serving 127.") {
		t.Errorf("got log %q; want no address of a client in it", text)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
