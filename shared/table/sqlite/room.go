package sqlite

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"time"

	"postern/shared/table"
)

// reserve is how many bytes of the disk are kept for what can't wait: keys, their
// revocation, the audit; and the results of jobs that run, 16 at a time of some
// 3 MB each at most.
const reserve = 64 << 20

// smallChange is a new value of an item, in bytes, that is written all the same:
// what there is goes on to its end, as a job does that is cancelled.
const smallChange = 4 << 10

// Room is nil unless the disk is nearly full. It takes a microsecond.
func (t *Table) Room() error {
	left, err := t.free(filepath.Dir(t.path))
	if err != nil {
		return fmt.Errorf("asking how full the disk of %s is: %w", t.path, err)
	}
	if left < reserve {
		return fmt.Errorf("writing %s: the disk has less than %d MiB left, which are kept for keys and audit: make room", t.path, reserve>>20)
	}
	return nil
}

// Sparing is t for what is some caller's (conversations, jobs, replies): its Put
// takes nothing more where there is no Room. So callers can't fill the disk up, and
// an administrator can act.
func (t *Table) Sparing() table.Table { return sparing{t} }

type sparing struct{ *Table }

// Put implements table.Table.
func (s sparing) Put(ctx context.Context, key table.Key, value []byte, expected int64, expires time.Time) (int64, error) {
	if expected == 0 || len(value) > smallChange {
		if err := cmp.Or(table.CheckPut(key, value, expected), s.Room()); err != nil {
			return 0, err
		}
	}
	return s.Table.Put(ctx, key, value, expected, expires)
}
