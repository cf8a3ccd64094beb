package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestFewDescriptors runs the program with 1,024 descriptors while eleven clients hold a hundred idle connections each:
// what is not in the cache is answered all the same, over every transport, and so are metrics.
func TestFewDescriptors(t *testing.T) {
	need(t, "prlimit")
	l := newLab(t)
	ca := l.newAuthority()
	l.blackHole()
	config := l.write("cfrd.yaml", l.config(ca, settings{more: "limits: {idle_timeout: 5m}"}))
	out := l.provider.must("prlimit", "--nofile=1024:1024", cfrd(t), "config", "check", config)
	if !strings.Contains(out, "warning: limits.connections: of 20000 only ") || !strings.Contains(out, "descriptors: 1024 (RLIMIT_NOFILE); ") {
		t.Errorf("config check: got %q; want the limits, and a warning", out)
	}
	d := &daemon{process: l.provider.start("prlimit", "--nofile=1024:1024", cfrd(t), "serve", "--config", config), l: l}
	d.waitReady()
	for client := range 11 {
		addr := fmt.Sprintf("10.0.0.%d", 10+client)
		l.customer.must("ip", "address", "add", addr+"/24", "dev", "access")
		for range 100 {
			c, err := l.customer.dial("tcp", addr, resolver4+":53")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
	}
	for i, c := range l.rawClients(ca) {
		name := fmt.Sprintf("warm%d.example", i)
		if got := c.ask(t.Context(), question(name)); len(got) < 12 || got[7] != 1 {
			t.Errorf("%s: %s: got %x; want an answer", c.name, name, got)
		}
	}
	if d.number(connections("tcp")) < 100 {
		t.Error("got hardly any connections; want many to be held")
	}
}
