//go:build unix

package sqlite

import (
	"errors"
	"os"
	"syscall"
)

// lock locks a file until unlock is called, or the process ends in whatever way.
// Somebody else's lock is errOwned.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return func() {
			syscall.Flock(int(f.Fd()), syscall.LOCK_UN) // a child that is just being forked may have f too
			f.Close()
		}, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errOwned
	}
	return nil, &os.PathError{Op: "lock", Path: path, Err: err}
}
