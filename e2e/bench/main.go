// Command bench measures a built cfrd beside other servers, side by side in one run: cached answers over UDP, DoT and
// DoH beside Unbound, and TCP through the relay beside HAProxy. With -against it is another binary of cfrd, an older one,
// that everything is compared with. The server has one core, the load has the other; what is compared is the server's
// CPU time per unit of work, read from /proc, and the throughput.
//
// Rounds alternate between the servers, the first is thrown away, and medians are printed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The cores of server and load.
const (
	serverCore = "0"
	loadCore   = "1"
)

// bench is one run.
type bench struct {
	cfrd    string // path of the binary
	against string // path of the binary to compare with instead of other programs, or ""
	dir     string // for configurations
	rounds  int
	seconds int
	procs   []*exec.Cmd
}

func main() {
	if len(os.Args) > 1 && (os.Args[1] == "echo" || os.Args[1] == "connect") {
		if err := helper(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	var b bench
	flag.StringVar(&b.cfrd, "cfrd", "", "path of the cfrd binary")
	flag.StringVar(&b.against, "against", "", "path of another cfrd binary to compare with, instead of Unbound and HAProxy")
	flag.IntVar(&b.rounds, "rounds", 5, "rounds that count; one more is thrown away")
	flag.IntVar(&b.seconds, "seconds", 3, "length of a round in seconds")
	only := flag.String("only", "", "run only this part: dns or tcp")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, only string) (err error) {
	if b.cfrd == "" {
		return errors.New("-cfrd is required; use e2e/bench/run.sh")
	}
	if b.dir, err = os.MkdirTemp("", "cfrd-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	defer b.stop()
	if b.against != "" {
		fmt.Printf("The peer is %s.\n\n", b.against)
	}
	fmt.Println("| work | unit | cfrd | peer | cfrd/peer | cfrd, per second | peer, per second |")
	fmt.Println("|---|---|---|---|---|---|---|")
	if only != "tcp" {
		if err := b.dns(ctx); err != nil {
			return err
		}
	}
	if only != "dns" {
		if err := b.tcp(ctx); err != nil {
			return err
		}
	}
	return nil
}

// sample is one round: how much CPU time the server used for how much work in how long.
type sample struct {
	cpu, wall time.Duration
	units     float64
}

// subject is a server under load: its process, and how to put one round of load on it.
type subject struct {
	pid  int
	load func(ctx context.Context) (units float64, err error)
}

// compare runs rounds against both, alternating, and prints a row. perUnit is what one unit is called.
func (b *bench) compare(ctx context.Context, work, perUnit string, ours, peer subject) error {
	var a, p []sample
	for round := range b.rounds + 1 {
		fmt.Fprintf(os.Stderr, "\r%s: round %d of %d  ", work, round, b.rounds)
		sa, err := measure(ctx, ours)
		if err != nil {
			return fmt.Errorf("%s: cfrd: %w", work, err)
		}
		sp, err := measure(ctx, peer)
		if err != nil {
			return fmt.Errorf("%s: peer: %w", work, err)
		}
		if round > 0 {
			a, p = append(a, sa), append(p, sp)
		}
	}
	fmt.Fprint(os.Stderr, "\r\033[K")
	cost := func(s sample) float64 { return float64(s.cpu.Nanoseconds()) / s.units / 1000 }
	rate := func(s sample) float64 { return s.units / s.wall.Seconds() }
	ca, cp := median(a, cost), median(p, cost)
	fmt.Printf("| %s | µs CPU per %s | %.3g | %.3g | %.2f | %.0f | %.0f |\n", work, perUnit, ca, cp, ca/cp, median(a, rate), median(p, rate))
	return nil
}

func measure(ctx context.Context, s subject) (sample, error) {
	before, err := cpuTime(s.pid)
	if err != nil {
		return sample{}, err
	}
	start := time.Now()
	units, err := s.load(ctx)
	if err != nil {
		return sample{}, err
	}
	wall := time.Since(start)
	after, err := cpuTime(s.pid)
	if err == nil && units <= 0 {
		err = errors.New("the load reports no work done")
	}
	return sample{cpu: after - before, wall: wall, units: units}, err
}

func median(s []sample, f func(sample) float64) float64 {
	v := make([]float64, len(s))
	for i := range s {
		v[i] = f(s[i])
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// cpuTime returns what all threads of a process have used, user and system, from the scheduler's own count.
func cpuTime(pid int) (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		return 0, fmt.Errorf("process %d is gone", pid)
	}
	var total time.Duration
	for _, t := range tasks {
		text, err := os.ReadFile(t)
		if err != nil {
			continue // a thread that ended since
		}
		ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", t, err)
		}
		total += time.Duration(ns)
	}
	return total, nil
}

// write puts a file into the folder of the run.
func (b *bench) write(name, content string) string {
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		panic("bench: " + err.Error()) // the folder is ours and new
	}
	return path
}

// start runs a server on a core, in a network namespace if ns is not empty, and returns its process id.
func (b *bench) start(core, ns, program string, args ...string) (int, error) {
	argv := append([]string{"taskset", "-c", core, program}, args...)
	if ns != "" {
		argv = append([]string{"ip", "netns", "exec", ns}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	logFile, err := os.Create(filepath.Join(b.dir, fmt.Sprintf("log-%d", len(b.procs))))
	if err != nil {
		return 0, err
	}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	b.procs = append(b.procs, cmd)
	return cmd.Process.Pid, nil
}

// stop ends every server.
func (b *bench) stop() {
	for _, c := range b.procs {
		c.Process.Kill()
		c.Wait()
	}
	b.procs = nil
}

// logs returns what the servers wrote, for an error.
func (b *bench) logs() string {
	var all strings.Builder
	files, _ := filepath.Glob(filepath.Join(b.dir, "log-*"))
	for _, f := range files {
		text, _ := os.ReadFile(f)
		all.Write(text)
	}
	return all.String()
}

// output runs a command of the load and returns its standard output.
func output(ctx context.Context, ns string, argv ...string) (string, error) {
	argv = append([]string{"taskset", "-c", loadCore}, argv...)
	if ns != "" {
		argv = append([]string{"ip", "netns", "exec", ns}, argv...)
	}
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out), nil
}

// until calls f until it succeeds, for at most 15 s.
func until(ctx context.Context, what string, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}
