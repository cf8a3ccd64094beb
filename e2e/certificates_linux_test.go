package e2e

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// heldConn is an open DoT connection of one of many clients.
type heldConn struct {
	*tls.Conn
	id uint16
}

// ask asks for the zone's name server over the connection and reads the answer.
func (c *heldConn) ask() error {
	c.id++
	// A query for dns.isp.example, class IN, type A, with RD.
	msg := append(binary.BigEndian.AppendUint16(nil, c.id), "\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"+
		"\x03dns\x03isp\x07example\x00\x00\x01\x00\x01"...)
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)); err != nil {
		return err
	}
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return err
	}
	reply := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, reply); err != nil {
		return err
	}
	if len(reply) < 12 || binary.BigEndian.Uint16(reply) != c.id || reply[3]&0xf != 0 || binary.BigEndian.Uint16(reply[6:]) == 0 {
		return fmt.Errorf("the answer is %x", reply)
	}
	return nil
}

// hold opens n DoT connections from within the customer's network.
func (l *lab) hold(ca *authority, n int) []*heldConn {
	l.t.Helper()
	conns := make([]*heldConn, n)
	errs := make(chan error, n)
	slots := make(chan struct{}, 32)
	for i := range conns {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			c, err := l.customer.dial("tcp", "", net.JoinHostPort(resolver4, "853"))
			if err != nil {
				errs <- err
				return
			}
			conns[i] = &heldConn{Conn: tls.Client(c, ca.tlsConfig(adn))}
			errs <- conns[i].ask()
		}()
	}
	for range conns {
		if err := <-errs; err != nil {
			l.t.Fatalf("open DoT connections: %v", err)
		}
	}
	l.t.Cleanup(func() {
		for _, c := range conns {
			c.NetConn().Close()
		}
	})
	return conns
}

// askAll asks over every connection at once and returns how many failed, with one of the reasons.
func askAll(conns []*heldConn) (failed int, reason error) {
	var mu sync.Mutex
	var work sync.WaitGroup
	for _, c := range conns {
		work.Go(func() {
			if err := c.ask(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed, reason = failed+1, err
			}
		})
	}
	work.Wait()
	return failed, reason
}

// serial returns the serial number of the certificate that new DoT connections get.
func (l *lab) serial() string {
	l.t.Helper()
	leaf, err := l.presented()
	if err != nil {
		l.t.Fatal(err)
	}
	return leaf.SerialNumber.String()
}

// TestReloadUnderConnections replaces the certificate, with a signal and without one, under a thousand open DoT
// connections of one address.
func TestReloadUnderConnections(t *testing.T) {
	const connections = 1000
	l := newLab(t)
	ca := l.newAuthority()
	cfg := l.config(ca, settings{more: "limits: {connections_per_client: 2000, idle_timeout: 2m, rate: 0}"})
	d := l.startCfrd(cfg)
	conns := l.hold(ca, connections)
	gauge := `cfrd_connections{transport="dot"}`
	if got := d.metric(gauge); got != fmt.Sprint(connections) {
		t.Fatalf("%s: got %s; want %d", gauge, got, connections)
	}
	check := func(step, before string) {
		t.Helper()
		if after := l.serial(); after == before {
			t.Errorf("%s: got the certificate from before; want the new one", step)
		}
		if failed, err := askAll(conns); failed > 0 {
			t.Errorf("%s: got %d of %d connections dropped, one by %v; want none", step, failed, connections, err)
		}
	}

	before := l.serial()
	l.cfrdCertificate(ca) // overwrites the files
	d.reload()
	check("SIGHUP", before)

	before = l.serial()
	l.cfrdCertificate(ca)
	poll(t, 15*time.Second, "the new certificate", func() error {
		if l.serial() == before {
			return errors.New("the one before is served")
		}
		return nil
	})
	check("watch", before)

	// One that is refused drops none either.
	before = l.serial()
	l.write("cfrd.key", "half a k")
	d.waitWarning("new certificate refused; the one before stays")
	if after := l.serial(); after != before {
		t.Error("refused: got another certificate; want the one before")
	}
	if failed, err := askAll(conns); failed > 0 {
		t.Errorf("refused: got %d of %d connections dropped, one by %v; want none", failed, connections, err)
	}
}

// TestCertificateThatLosesAnAddress replaces the certificate in place.
func TestCertificateThatLosesAnAddress(t *testing.T) {
	l := newLab(t)
	ca := l.newAuthority()
	l.startCfrd(l.config(ca, settings{}))
	wait := func(want bool) {
		t.Helper()
		poll(t, 15*time.Second, fmt.Sprintf("advertised at %s: %t", resolver6, want), func() error {
			if l.advertises(resolver6) != want {
				return errors.New("not so")
			}
			return nil
		})
	}
	wait(true)
	ca.issue("cfrd", adn, resolver4)
	wait(false)
	l.cfrdCertificate(ca)
	wait(true)
}

// TestRefusedCertificates puts broken certificates in place of a good one, the way certificate managers do: by a link
// to a folder that is swapped.
func TestRefusedCertificates(t *testing.T) {
	l := newLab(t)
	ca := l.newAuthority()
	cfg := l.config(ca, settings{})
	live := filepath.Join(l.dir, "live")
	swap := func(cert, key string) {
		t.Helper()
		folder := filepath.Join(l.dir, fmt.Sprintf("version-%d", time.Now().UnixNano()))
		l.write(filepath.Join(filepath.Base(folder), "tls.crt"), l.readPath(cert))
		l.write(filepath.Join(filepath.Base(folder), "tls.key"), l.readPath(key))
		if err := os.Symlink(folder, live+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(live+".new", live); err != nil {
			t.Fatal(err)
		}
	}
	good, goodKey := l.cfrdCertificate(ca)
	swap(good, goodKey)
	cfg = strings.Replace(cfg, fmt.Sprintf("%q", good), fmt.Sprintf("%q", filepath.Join(live, "tls.crt")), 1)
	cfg = strings.Replace(cfg, fmt.Sprintf("%q", goodKey), fmt.Sprintf("%q", filepath.Join(live, "tls.key")), 1)
	d := l.startCfrd(cfg)
	before := l.serial()

	hours := func(n int) time.Time { return time.Now().Add(time.Duration(n) * time.Hour) }
	expired, expiredKey := ca.issueAt("expired", hours(-2), hours(-1), adn, resolver4, resolver6)
	early, earlyKey := ca.issueAt("early", hours(1), hours(2), adn, resolver4, resolver6)
	other, otherKey := ca.issue("other", "www.isp.example", resolver4)
	for _, step := range []struct{ name, cert, key, want string }{
		{"expired", expired, expiredKey, "expired on "},
		{"not-yet-valid", early, earlyKey, "is not valid before "},
		{"other-name", other, otherKey, "is not for dns.isp.example, the resolver's name, but for www.isp.example, 10.0.0.53"},
		{"other-key", good, otherKey, "private key does not match public key"},
	} {
		swap(step.cert, step.key)
		d.waitWarning(step.want)
		if l.serial() != before {
			t.Errorf("%s: got another certificate; want the one before", step.name)
		}
		d.wantReady(step.want)
	}
	fresh, freshKey := l.cfrdCertificate(ca)
	swap(fresh, freshKey)
	poll(t, 15*time.Second, "the good certificate", func() error {
		if l.serial() == before {
			return errors.New("the one before is served")
		}
		return nil
	})
	d.wantReady()
}

func (l *lab) readPath(path string) string {
	l.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		l.t.Fatal(err)
	}
	return string(text)
}
