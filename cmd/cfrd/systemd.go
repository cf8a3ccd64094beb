package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notify sends assignments to the service manager, in one message. Without a manager it does nothing. A message that is
// lost is not worth an error here, because the manager's own timeout shows it. See sd_notify(3).
func notify(assignments ...string) {
	_, _ = daemon.SdNotify(false, strings.Join(assignments, "\n"))
}

// notifyReady tells the manager that everything is bound, or that a reload has ended, and what `systemctl status` is to
// show.
func notifyReady(status string) { notify(daemon.SdNotifyReady, "STATUS="+status) }

// notifyReloading tells the manager that a reload begins. The service type notify-reload needs the time with it, in the
// same message.
func notifyReloading() {
	notify(daemon.SdNotifyReloading, strings.TrimSpace(daemon.SdNotifyMonotonicUsec()), "STATUS=reading the configuration again")
}

// notifyStopping tells the manager that the drain begins.
func notifyStopping() { notify(daemon.SdNotifyStopping, "STATUS=draining") }

// watchdogInterval returns how often the manager wants to hear that this process is alive, or 0 if it does not. See
// sd_watchdog_enabled(3).
func watchdogInterval() (time.Duration, error) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0, errors.New("WATCHDOG_USEC or WATCHDOG_PID: not what a service manager sets: " + err.Error())
	}
	return interval, nil
}

// feedWatchdog tells the manager twice in each interval that this process is alive, until ctx is done. alive is called
// before each message, and blocks where something that it looks at is stuck: then no message is sent, and the manager
// restarts the process. An interval of 0 feeds nothing.
func feedWatchdog(ctx context.Context, interval time.Duration, alive func()) {
	if interval == 0 {
		return
	}
	ticker := time.NewTicker(max(interval/2, time.Millisecond))
	defer ticker.Stop()
	for {
		alive()
		notify(daemon.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// alive takes every lock that serving, reloading and metrics share.
func (n *node) alive() {
	n.current()
	n.notReady()
}
