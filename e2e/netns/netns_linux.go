package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// rerun runs the test binary again in a new network namespace and returns its exit code, or false if that is not allowed
// here.
func rerun() (code int, ok bool) {
	kinds := []uintptr{syscall.CLONE_NEWNET, syscall.CLONE_NEWNET | syscall.CLONE_NEWUSER}
	if os.Geteuid() != 0 {
		kinds = kinds[1:]
	}
	for _, kind := range kinds {
		cmd := command(kind)
		if err := cmd.Start(); err != nil {
			continue // not allowed
		}
		err := cmd.Wait()
		if exit, ended := errors.AsType[*exec.ExitError](err); ended && exit.ExitCode() > 0 {
			return exit.ExitCode(), true
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "tests in a network namespace: %v\n", err)
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// command returns the command line of this process, to be run in new namespaces of the given kinds.
func command(kinds uintptr) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: kinds, Pdeathsig: syscall.SIGKILL}
	if kinds&syscall.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

// prepare brings the loopback interface up.
func prepare() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
