package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	mathrand "math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mholt/acmez/v3/acme"
	"github.com/rs/zerolog"

	"github.com/cfrd-project/cfrd/cmd/cfrd/internal/certs"
)

// fakeAuthority gives certificates as it is told to.
type fakeAuthority struct {
	mu     sync.Mutex
	life   time.Duration
	fail   error                                // of orders, or nil
	alter  func(*x509.Certificate)              // or nil
	advise func(leaf *x509.Certificate) advised // or nil: it has no windows

	orders []fakeOrder
	asked  int // for windows
}

// advised is the answer to a question for a window.
type advised struct{ start, end, again time.Time }

type fakeOrder struct {
	at  time.Time
	id  Identity
	old *x509.Certificate
}

func (f *fakeAuthority) order(_ context.Context, id Identity, old *x509.Certificate) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders = append(f.orders, fakeOrder{time.Now(), id, old})
	if f.fail != nil {
		return nil, f.fail
	}
	key, keyPEM, err := certs.NewKey()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(mathrand.Int64()),
		DNSNames:     []string{id.Name},
		NotBefore:    time.Now(),
		NotAfter:     time.Now().Add(f.life),
	}
	for _, a := range id.Addrs {
		template.IPAddresses = append(template.IPAddresses, a.AsSlice())
	}
	if f.alter != nil {
		f.alter(template)
	}
	issuer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), issuer)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM...), nil
}

func (f *fakeAuthority) window(_ context.Context, leaf *x509.Certificate) (info acme.RenewalInfo, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if f.advise == nil {
		return info, acme.ErrUnsupported
	}
	a := f.advise(leaf)
	info.SuggestedWindow.Start, info.SuggestedWindow.End = a.start, a.end
	info.SelectedTime = a.start.Add(mathrand.N(a.end.Sub(a.start)))
	if !a.again.IsZero() {
		info.RetryAfter = &a.again
	}
	return info, nil
}

// change returns the orders so far, and changes what comes next.
func (f *fakeAuthority) change(change func(*fakeAuthority)) []fakeOrder {
	f.mu.Lock()
	defer f.mu.Unlock()
	if change != nil {
		change(f)
	}
	return slices.Clone(f.orders)
}

// renewal is a renewer in a bubble with an authority.
type renewal struct {
	*renewer
	authority *fakeAuthority
	log       *logBuffer
}

func testIdentity() Identity {
	return Identity{Name: "dns.isp.example", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")}}
}

// renew runs a renewer until the bubble ends.
func renew(t *testing.T, dir string, f *fakeAuthority) *renewal {
	t.Helper()
	log := &logBuffer{}
	store := newStore(Config{Storage: dir})
	r := &renewal{newRenewer(certs.NewHolder(nil), store, f, testIdentity(), zerolog.New(log)), f, log}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return r
}

// after lets time pass.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

const day = 24 * time.Hour

func TestRenewerOrdersTheFirst(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := renew(t, dir, &fakeAuthority{life: 90 * day})
		leaf := r.holder.Leaf()
		if leaf == nil || !testIdentity().isOf(leaf) {
			t.Fatalf("got certificate %v, log %q; want one for name and addresses", leaf, r.log.lines())
		}
		if s := r.holder.Stats(); s.Applied != 1 || s.Failing || !s.Next.Equal(leaf.NotBefore.Add(60*day)) {
			t.Errorf("got %+v; want one applied and the next in 60 days", s)
		}
		kept, err := r.store.load("dns.isp.example")
		if err != nil || !kept.Leaf.Equal(leaf) {
			t.Errorf("store: got error %v; want the certificate", err)
		}
	})
}

// TestRenewerRenewsAheadOfTime lets a year pass.
func TestRenewerRenewsAheadOfTime(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAuthority{life: 6 * day}
		r := renew(t, dir, f)
		first := r.holder.Leaf()
		after(4*day - time.Minute)
		if r.holder.Leaf() != first {
			t.Error("before two thirds of its life: got another certificate; want the first")
		}
		after(2 * time.Minute)
		if r.holder.Leaf() == first {
			t.Error("after two thirds of its life: got the first certificate; want the next")
		}
		orders := f.change(nil)
		if len(orders) != 2 || orders[1].old == nil || !orders[1].old.Equal(first) {
			t.Errorf("got %d orders; want 2, of which the second replaces the first certificate", len(orders))
		}
		after(365 * day)
		if got, want := len(f.change(nil)), 1+369/4; got != want {
			t.Errorf("after a year: got %d orders; want %d", got, want)
		}
	})
}

// TestRenewerTakesAdvice follows windows of the authority, also one that moves.
func TestRenewerTakesAdvice(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		window := func(from, to time.Duration) func(*x509.Certificate) advised {
			return func(leaf *x509.Certificate) advised {
				return advised{leaf.NotBefore.Add(from), leaf.NotBefore.Add(to), time.Now().Add(time.Hour)}
			}
		}
		f := &fakeAuthority{life: 90 * day, advise: window(30*day, 31*day)}
		r := renew(t, dir, f)
		first := r.holder.Leaf()
		next := r.holder.Stats().Next
		if from := next.Sub(first.NotBefore); from < 30*day || from > 31*day {
			t.Errorf("got the next after %v; want it within 30 to 31 days", from)
		}
		after(29 * day)
		if again := r.holder.Stats().Next; !again.Equal(next) {
			t.Errorf("got the time drawn again, %v after %v; want it to stay", again, next)
		}
		after(2*day + time.Minute)
		second := r.holder.Leaf()
		if second == first {
			t.Fatal("after the window: got the first certificate; want the second")
		}

		// The certificates are revoked, and all are to be replaced now.
		f.change(func(f *fakeAuthority) { f.advise = window(-2*time.Hour, -time.Hour) })
		third := second
		for minutes := 0; third == second && minutes <= 60; minutes++ { // advice is asked for every hour
			after(time.Minute)
			third = r.holder.Leaf()
		}
		if third == second {
			t.Error("after the window moved into the past: got the second certificate; want the third")
		}
		after(58 * time.Minute)
		if got := len(f.change(nil)); got != 3 {
			t.Errorf("with a window that is always over: got %d orders; want 3, the next an hour later", got)
		}
		f.change(func(f *fakeAuthority) { f.advise = window(200*day, 201*day) })
		after(2 * time.Hour)
		if got, latest := r.holder.Stats().Next, r.holder.Leaf().NotAfter; !got.Before(latest) {
			t.Errorf("with a window beyond its end: got the next at %v; want it before %v", got, latest)
		}
	})
}

// TestRenewerBacksOff has an authority fail until the certificate is over, and come back.
func TestRenewerBacksOff(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAuthority{life: 6 * day}
		r := renew(t, dir, f)
		first := r.holder.Leaf()
		f.change(func(f *fakeAuthority) { f.fail = errors.New("is\nnot well") })
		after(4*day + time.Second)
		if got := r.holder.Complaint(); got != "the certificate was not replaced: renewal failed: is not well" {
			t.Errorf("got complaint %q; want the reason in one line", got)
		}
		if lines := r.holder.Warnings(time.Now()); len(lines) != 1 {
			t.Errorf("got warnings %q; want one", lines)
		}
		after(3 * day)
		if r.holder.Leaf() != first || r.holder.Invalid(time.Now()) == "" {
			t.Error("got another certificate, or a valid one; want the first, which has expired")
		}
		orders := f.change(nil)
		for i, o := range orders[2:] {
			pause, want := o.at.Sub(orders[i+1].at), min(firstRetry<<min(i, 10), lastRetry)
			if pause < want || pause > want+want/10+time.Second {
				t.Errorf("pause %d: got %v; want %v and up to a tenth", i, pause, want)
			}
			if o.old != nil {
				t.Errorf("retry %d: got an order that replaces another; want a plain one", i)
			}
		}
		f.change(func(f *fakeAuthority) { f.fail = nil })
		r.Update(testIdentity()) // as SIGHUP does, which does not wait for the next attempt
		synctest.Wait()
		if r.holder.Leaf() == first || r.holder.Complaint() != "" || r.holder.Invalid(time.Now()) != "" {
			t.Errorf("after the authority came back: got complaint %q; want a new certificate", r.holder.Complaint())
		}
	})
}

// TestRenewerWithAWrongClock has certificates that are nearly over when they come.
func TestRenewerWithAWrongClock(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAuthority{life: time.Hour, alter: func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-5 * day) }}
		renew(t, dir, f)
		after(12 * time.Hour)
		if got := len(f.change(nil)); got > 13 {
			t.Errorf("got %d orders in 12 hours; want no more than one an hour", got)
		}
	})
}

func TestRetryPauseWhenLimited(t *testing.T) {
	err := error(acme.Problem{Type: acme.ProblemTypeRateLimited, Status: 429})
	if got := retryPause(1, err); got < lastRetry {
		t.Errorf("got %v after the first failure; want at least %v", got, lastRetry)
	}
	if got := retryPause(1000, errors.New("other")); got < lastRetry || got > 2*lastRetry {
		t.Errorf("got %v after many failures; want about %v", got, lastRetry)
	}
}

// TestRenewerFollowsTheConfiguration takes an address away at run time.
func TestRenewerFollowsTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAuthority{life: 90 * day}
		r := renew(t, dir, f)
		want := testIdentity()
		want.Addrs = want.Addrs[:1]
		r.Update(want)
		synctest.Wait()
		if leaf := r.holder.Leaf(); !want.isOf(leaf) {
			t.Errorf("got a certificate for %v; want one for %v", leaf.IPAddresses, want.Addrs)
		}
		r.Update(want)
		synctest.Wait()
		if got := len(f.change(nil)); got != 2 {
			t.Errorf("after a reload that changes nothing: got %d orders; want 2", got)
		}
	})
}

// TestRenewerRefuses has an authority give what was not asked for.
func TestRenewerRefuses(t *testing.T) {
	tests := map[string]struct {
		alter func(*x509.Certificate)
		want  string
	}{
		"address-missing": {
			func(c *x509.Certificate) { c.IPAddresses = c.IPAddresses[:1] },
			"what the authority gave is for dns.isp.example, 192.0.2.53, not for dns.isp.example, 192.0.2.53, 2001:db8::53",
		},
		"address-too-many": {
			func(c *x509.Certificate) { c.IPAddresses = append(c.IPAddresses, []byte{192, 0, 2, 54}) },
			"192.0.2.54, not for",
		},
		"other-address": {
			func(c *x509.Certificate) { c.IPAddresses[0] = []byte{192, 0, 2, 54} },
			"192.0.2.54",
		},
		"other-name": {
			func(c *x509.Certificate) { c.DNSNames = []string{"www.isp.example"} },
			"is not for dns.isp.example",
		},
		"expired": {
			func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
			},
			"expired on",
		},
		"not-yet-valid": {
			func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) },
			"is not valid before",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				r := renew(t, dir, &fakeAuthority{life: 90 * day, alter: test.alter})
				if r.holder.Leaf() != nil {
					t.Error("got it served; want it refused")
				}
				if got := r.holder.Complaint(); !strings.Contains(got, test.want) {
					t.Errorf("got complaint %q; want %q in it", got, test.want)
				}
				if _, err := r.store.load("dns.isp.example"); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("store: got error %v; want nothing in it", err)
				}
			})
		})
	}
}

// TestRenewerSharesTheStore has two processes with one store, of which one orders.
func TestRenewerSharesTheStore(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAuthority{life: 6 * day}
		a, b := renew(t, dir, f), renew(t, dir, f)
		after(time.Minute) // the one that waits for the lock looks once a second
		if got := len(f.change(nil)); got != 1 || !a.holder.Leaf().Equal(b.holder.Leaf()) {
			t.Errorf("got %d orders; want 1, for both", got)
		}
		after(4*day + time.Hour)
		if got := len(f.change(nil)); got != 2 || !a.holder.Leaf().Equal(b.holder.Leaf()) {
			t.Errorf("after a renewal: got %d orders; want 2, for both", got)
		}
	})
}

// TestRenewerWithoutAStore goes on with what it cannot keep, and says so.
func TestRenewerWithoutAStore(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAuthority{life: 6 * day}
		// Where the certificate is to go there is a file.
		store := newStore(Config{Storage: dir})
		path := filepath.Join(dir, filepath.FromSlash(store.bundleKey("dns.isp.example")))
		if err := os.MkdirAll(filepath.Dir(filepath.Dir(path)), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Dir(path), "in the way")
		r := renew(t, dir, f)
		if r.holder.Leaf() == nil || !strings.HasPrefix(r.holder.Complaint(), "the new certificate cannot be kept for a restart: ") {
			t.Errorf("got complaint %q; want the certificate served, and a complaint", r.holder.Complaint())
		}
		if s := r.holder.Stats(); s.Applied != 1 || s.Refused != 0 {
			t.Errorf("got %d applied, %d refused; want 1, 0", s.Applied, s.Refused)
		}
	})
}
