package memory_test

import (
	"testing"
	"testing/synctest"
	"time"

	"postern/shared/table"
	"postern/shared/table/memory"
	"postern/shared/table/tabletest"
)

func TestTable(t *testing.T) {
	t.Parallel()
	tabletest.Run(t, func(_ *testing.T, now func() time.Time) table.Table {
		return &memory.Table{Now: now}
	})
}

// TestOnTheRealClock: the zero value is ready, and goes by time.Now.
func TestOnTheRealClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var m memory.Table
		key := table.Key{Partition: "p", Sort: "a"}
		if _, err := m.Put(t.Context(), key, nil, 0, time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute - time.Nanosecond)
		if _, err := m.Get(t.Context(), key); err != nil {
			t.Errorf("before its end: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if _, err := m.Get(t.Context(), key); err != table.ErrNotFound {
			t.Errorf("at its end: error %v", err)
		}
	})
}
