package relay

import (
	"os"

	"golang.org/x/sys/unix"
)

// mostDescriptors caps what an unlimited process would reckon with.
const mostDescriptors = 1 << 20

// descriptors raises the soft limit of descriptors to the hard one and returns it.
func descriptors() (int, error) {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	if lim.Cur < lim.Max {
		raised := lim
		raised.Cur = lim.Max
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			lim = raised
		}
	}
	return int(min(lim.Cur, mostDescriptors)), nil
}
