//go:build linux || darwin || freebsd

package sqlite

import "syscall"

// free is how many bytes this user may still write to a folder's disk (statfs(2)).
func free(dir string) (uint64, error) {
	var s syscall.Statfs_t
	for {
		err := syscall.Statfs(dir, &s)
		if err == nil {
			return uint64(max(s.Bavail, 0)) * uint64(s.Bsize), nil
		}
		if err != syscall.EINTR {
			return 0, err
		}
	}
}
