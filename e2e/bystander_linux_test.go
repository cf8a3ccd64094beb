package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const (
	bystanderRate    = 25              // queries a second on each transport
	bystanderUses    = 10              // queries on one connection before the next one is opened
	bystanderTimeout = 5 * time.Second // what a stub resolver waits for
	bystanderCached  = "warm%d.calm.example."
	bystanderNew     = "n%x.calm.example."
)

// bystander is a customer who asks at a steady rate while others attack. Half of the names that it asks for are in the
// cache, and half are new. A query counts from before its connection is opened to its answer.
type bystander struct {
	l  *lab
	ca *authority

	mu        sync.Mutex
	latencies map[string][]time.Duration // of answered queries, by transport
	failures  map[string][]error
}

// ways are the transports of a bystander, by name.
func (b *bystander) ways() map[string]func() (asker, error) {
	return map[string]func() (asker, error){"udp": b.openUDP, "dot": b.openDoT, "doh": b.openDoH}
}

// asker is a connection of a bystander.
type asker interface {
	ask(msg []byte) ([]byte, error)
	Close() error
}

func newBystander(l *lab, ca *authority) *bystander {
	return &bystander{l: l, ca: ca, latencies: map[string][]time.Duration{}, failures: map[string][]error{}}
}

// watchFor asks for as long as limit, and longer until done is closed.
func (b *bystander) watchFor(limit time.Duration, done <-chan struct{}) {
	ctx, cancel := context.WithCancel(b.l.t.Context())
	defer cancel()
	time.AfterFunc(limit, func() {
		select {
		case <-done:
		case <-ctx.Done():
		}
		cancel()
	})
	var work sync.WaitGroup
	for name, open := range b.ways() {
		work.Go(func() { b.askSteadily(ctx, name, open) })
	}
	work.Wait()
}

// askSteadily begins a query at each tick, whether or not the ones before have been answered.
func (b *bystander) askSteadily(ctx context.Context, way string, open func() (asker, error)) {
	tick := time.NewTicker(time.Second / bystanderRate)
	defer tick.Stop()
	pool := &askers{open: open}
	defer pool.close()
	var work sync.WaitGroup
	defer work.Wait()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		name := fmt.Sprintf(bystanderCached, i/2%10)
		if i%2 == 0 {
			name = fmt.Sprintf(bystanderNew, rand.Uint64())
		}
		work.Go(func() {
			begin := time.Now()
			err := pool.ask(name)
			b.record(way, name, time.Since(begin), err)
		})
	}
}

func (b *bystander) record(way, name string, took time.Duration, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.failures[way] = append(b.failures[way], fmt.Errorf("%s after %v: %w", name, took.Round(time.Millisecond), err))
		return
	}
	b.latencies[way] = append(b.latencies[way], took)
}

// askers are the open connections of one transport that have no query under way.
type askers struct {
	open func() (asker, error)
	mu   sync.Mutex
	free []usedAsker
}

type usedAsker struct {
	asker
	uses int
}

// ask asks for the A record of name, on a connection that is free or on a new one.
func (p *askers) ask(name string) error {
	c, err := p.get()
	if err != nil {
		return fmt.Errorf("open a connection: %w", err)
	}
	msg := question(strings.TrimSuffix(name, "."))
	reply, err := c.ask(msg)
	if err != nil || c.uses+1 >= bystanderUses {
		c.Close()
	} else {
		p.mu.Lock()
		p.free = append(p.free, usedAsker{c.asker, c.uses + 1})
		p.mu.Unlock()
	}
	if err != nil {
		return err
	}
	return wantAddress(reply)
}

func (p *askers) get() (usedAsker, error) {
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		c := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		return c, nil
	}
	p.mu.Unlock()
	c, err := p.open()
	return usedAsker{asker: c}, err
}

func (p *askers) close() {
	for _, c := range p.free {
		c.Close()
	}
}

// wantAddress returns an error unless reply is a complete positive answer with an address.
func wantAddress(reply []byte) error {
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil {
		return fmt.Errorf("parse %x: %w", reply, err)
	}
	for _, rr := range m.Answer {
		if _, ok := rr.(*dns.A); ok && m.Rcode == dns.RcodeSuccess && !m.Truncated {
			return nil
		}
	}
	return fmt.Errorf("got %s with %d records, truncated %v; want an address", dns.RcodeToString[m.Rcode], len(m.Answer), m.Truncated)
}

type udpAsker struct{ net.Conn }

func (b *bystander) openUDP() (asker, error) {
	c, err := b.l.customer.dial("udp", "", resolver4+":53")
	return udpAsker{c}, err
}

func (c udpAsker) ask(msg []byte) ([]byte, error) {
	c.SetDeadline(time.Now().Add(bystanderTimeout))
	if _, err := c.Write(msg); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	return buf[:n], err
}

type dotAsker struct{ net.Conn }

func (b *bystander) openDoT() (asker, error) {
	c, err := b.l.customer.dial("tcp", "", resolver4+":853")
	if err != nil {
		return nil, err
	}
	return dotAsker{tls.Client(c, b.ca.tlsConfig(adn, "dot"))}, nil
}

func (c dotAsker) ask(msg []byte) ([]byte, error) {
	c.SetDeadline(time.Now().Add(bystanderTimeout))
	if _, err := c.Write(framed(msg)); err != nil {
		return nil, err
	}
	if reply := readFramed(c); len(reply) > 0 {
		return reply, nil
	}
	return nil, errors.New("the connection ended before the answer, or there was none in time")
}

type dohAsker struct{ *http.Transport }

func (b *bystander) openDoH() (asker, error) {
	return dohAsker{&http.Transport{TLSClientConfig: b.ca.tlsConfig(adn), ForceAttemptHTTP2: true, DialContext: b.l.dialDoH}}, nil
}

func (c dohAsker) ask(msg []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bystanderTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+adn+"/dns-query", bytes.NewReader(msg))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/dns-message")
	resp, err := c.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("got %s", resp.Status)
	}
	return io.ReadAll(resp.Body)
}

func (c dohAsker) Close() error {
	c.CloseIdleConnections()
	return nil
}

// percentile returns the latency that the share p of the answered queries of all transports stays within.
func (b *bystander) percentile(p float64) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []time.Duration
	for _, l := range b.latencies {
		all = append(all, l...)
	}
	return percentileOf(all, p)
}

func percentileOf(all []time.Duration, p float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))].Round(10 * time.Microsecond)
}

// failed returns how many queries failed, and some of their errors.
func (b *bystander) failed() (n int, some error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for way, list := range b.failures {
		n += len(list)
		for _, err := range list[:min(len(list), 3)] {
			errs = append(errs, fmt.Errorf("%s: %w", way, err))
		}
	}
	return n, errors.Join(errs...)
}

func (b *bystander) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s strings.Builder
	for _, way := range []string{"udp", "dot", "doh"} {
		l := b.latencies[way]
		fmt.Fprintf(&s, " %s: %d answered, %d failed, p50 %v, p99 %v;", way, len(l), len(b.failures[way]), percentileOf(l, .5), percentileOf(l, .99))
	}
	return s.String()
}

// warm brings the cached names into the cache.
func (b *bystander) warm() {
	b.l.t.Helper()
	pool := &askers{open: b.openUDP}
	defer pool.close()
	for i := range 10 {
		poll(b.l.t, 20*time.Second, "a name is answered before the attack", func() error {
			return pool.ask(fmt.Sprintf(bystanderCached, i))
		})
	}
}

// wantUnmoved fails t unless every query of the attacked phase was answered, and its 99th percentile stays below 50 ms,
// or below twice what the same machine needed in the calm phase if that is more.
func wantUnmoved(t *testing.T, calm, attacked *bystander) {
	t.Helper()
	t.Logf("calm:    %v", calm)
	t.Logf("attacked:%v", attacked)
	if n, err := calm.failed(); n > 0 {
		t.Errorf("%d queries failed before the attack: %v", n, err)
	}
	if n, err := attacked.failed(); n > 0 {
		t.Errorf("%d of the bystander's queries failed under attack; want none:\n%v", n, err)
	}
	limit := max(50*time.Millisecond, 2*calm.percentile(.99))
	if p := attacked.percentile(.99); p >= limit {
		t.Errorf("got a 99th percentile of %v under attack, %v before; want less than %v", p, calm.percentile(.99), limit)
	}
}
