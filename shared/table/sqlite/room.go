package sqlite

import (
	"fmt"
	"path/filepath"
	"time"
)

// reserve is how many bytes of the disk are kept for what lasts: keys, their
// revocations, the audit. What expires (conversations, jobs, replies) is some
// caller's, and however much of it callers store, an administrator can act.
const reserve = 16 << 20

// smallChange is a new value of an item, in bytes, that is written all the same:
// what there is goes on to its end, as a job does that is cancelled.
const smallChange = 4 << 10

// checkRoom refuses to store what expires on a disk that is nearly full. It asks
// the system, which takes a microsecond, of a write that takes a thousand.
func (t *Table) checkRoom(value []byte, expected int64, expires time.Time) error {
	if expires.IsZero() || expected > 0 && len(value) <= smallChange {
		return nil
	}
	left, err := t.free(filepath.Dir(t.path))
	if err != nil {
		return fmt.Errorf("asking how full the disk of %s is: %w", t.path, err)
	}
	if left < reserve {
		return fmt.Errorf("writing %s: the disk has less than %d MiB left, which are kept for keys and audit: make room", t.path, reserve>>20)
	}
	return nil
}
