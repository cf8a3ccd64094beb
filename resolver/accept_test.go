package resolver

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// Out of descriptors, attempts become fewer, and the wait for the next one ends at once when the server stops.
func TestAcceptBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopping := make(chan struct{})
		start, attempts, ended := time.Now(), 0, make(chan error, 1)
		go func() {
			_, err := acceptBackingOff(stopping, func() (*net.TCPConn, error) {
				attempts++
				return nil, syscall.EMFILE
			}, func(error) {})
			ended <- err
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		if attempts < 60 || attempts > 70 {
			t.Errorf("got %d attempts in a minute; want about one each second", attempts)
		}
		close(stopping)
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v; want %v", err, net.ErrClosed)
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("ended after %s; want at once", took)
		}
	})
}

func TestAcceptGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errs := []error{syscall.EMFILE, syscall.ECONNABORTED, nil}
		want := new(net.TCPConn)
		got, err := acceptBackingOff(nil, func() (*net.TCPConn, error) {
			err := errs[0]
			errs = errs[1:]
			if err != nil {
				return nil, err
			}
			return want, nil
		}, func(error) {})
		if got != want || err != nil {
			t.Errorf("got %v, %v; want the connection", got, err)
		}
	})
}
