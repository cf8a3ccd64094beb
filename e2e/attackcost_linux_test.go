package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// usage is what a process holds at one moment.
type usage struct {
	resident    int           // octets
	descriptors int           // open files
	cpu         time.Duration // since it began
}

func (u usage) String() string {
	return fmt.Sprintf("%.1f MiB, %d descriptors, %v of CPU", float64(u.resident)/(1<<20), u.descriptors, u.cpu)
}

// usage reads what the daemon holds from /proc.
func (d *daemon) usage() (u usage, err error) {
	dir := fmt.Sprintf("/proc/%d/", d.cmd.Process.Pid)
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			u.resident, err = strconv.Atoi(strings.Fields(rest)[0])
			u.resident <<= 10
		}
	}
	if err != nil {
		return u, fmt.Errorf("parse VmRSS: %w", err)
	}
	files, err := os.ReadDir(dir + "fd")
	if err != nil {
		return u, err
	}
	u.descriptors = len(files)
	u.cpu, err = processorTime(dir + "stat")
	return u, err
}

// processorTime reads the fields utime and stime of proc(5), in ticks of 10 ms.
func processorTime(file string) (time.Duration, error) {
	stat, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	var ticks int
	for _, i := range []int{11, 12} {
		n, err := strconv.Atoi(f[i])
		if err != nil {
			return 0, fmt.Errorf("parse %s: %w", file, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// watcher samples what a daemon holds until it is stopped.
type watcher struct {
	stop func() usage // ends the samples and returns the greatest of each kind
}

func (d *daemon) watch() *watcher {
	end := make(chan struct{})
	var most usage
	var work sync.WaitGroup
	work.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			if u, err := d.usage(); err == nil {
				most.resident = max(most.resident, u.resident)
				most.descriptors = max(most.descriptors, u.descriptors)
				most.cpu = max(most.cpu, u.cpu)
			}
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	})
	return &watcher{stop: func() usage {
		close(end)
		work.Wait()
		return most
	}}
}

// usageAfterCollection has the daemon give memory back that it no longer uses, by asking for a heap profile that begins
// with a collection, and returns what it holds then and how many goroutines it runs.
func (d *daemon) usageAfterCollection() (u usage, goroutines float64, err error) {
	for range 2 { // what is in a sync.Pool outlives one collection
		_, err := d.l.provider.try("curl", "-sf", "-m", "20", "-o", "/dev/null", "http://127.0.0.1:9153/debug/pprof/heap?gc=1")
		if err != nil {
			return u, 0, err
		}
	}
	metrics, err := d.l.provider.try("curl", "-sf", "-m", "20", "http://127.0.0.1:9153/metrics")
	if err != nil {
		return u, 0, err
	}
	for line := range strings.Lines(metrics) {
		if rest, ok := strings.CutPrefix(line, "go_goroutines "); ok {
			goroutines, err = strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
	}
	if err != nil {
		return u, 0, fmt.Errorf("parse go_goroutines: %w", err)
	}
	u, err = d.usage()
	return u, goroutines, err
}

// wantReturned waits until memory, descriptors and goroutines are within 20 % of what they were.
func (d *daemon) wantReturned(t *testing.T, before usage, goroutines float64) {
	t.Helper()
	const limit = 40 * time.Second
	deadline := time.After(limit)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		u, now, err := d.usageAfterCollection()
		if err == nil && u.within(before) && now <= goroutines*1.2+20 {
			t.Logf("after: %v, %v goroutines", u, now)
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Errorf("%v after the attack: got %v, %v goroutines, %v; want within 20 %% of %v, %v goroutines",
				limit, u, now, err, before, goroutines)
			return
		}
	}
}

// within reports whether u is at most 20 % more than before. A few descriptors are those of the test's own requests.
func (u usage) within(before usage) bool {
	return u.resident <= before.resident*6/5 && u.descriptors <= before.descriptors*6/5+5
}
