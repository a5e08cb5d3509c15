package sqlite

import "context"

// Flush writes the counters behind now.
func Flush(t *Table) error { return t.counters.flush() }

// Forget drops every counter from memory that is written.
func Forget(t *Table) {
	t.counters.saving.Lock()
	defer t.counters.saving.Unlock()
	t.counters.mu.Lock()
	defer t.counters.mu.Unlock()
	t.counters.second += forgetAfter
	t.counters.forget()
}

// Tallies is how many items' counters are in memory.
func Tallies(t *Table) int {
	t.counters.mu.Lock()
	defer t.counters.mu.Unlock()
	return t.counters.n
}

// Exec runs a statement where t writes.
func Exec(t *Table, statement string) error {
	_, err := t.write.Exec(statement)
	return err
}

// Rows is how many items the file has, expired ones too.
func Rows(t *Table) (n int, err error) {
	err = t.read.QueryRow("SELECT count(*) FROM items").Scan(&n)
	return n, err
}

// Synchronous is how much SQLite waits for the disk where t writes.
func Synchronous(t *Table) (level int, err error) {
	err = t.write.QueryRow("PRAGMA synchronous").Scan(&level)
	return level, err
}

// Room makes room in memory for the counters of n items.
func Room(t *Table, n int) { t.counters.room = n }

// Left says what the disk has left, in bytes, or why nobody knows.
func Left(t *Table, bytes uint64, err error) {
	t.free = func(string) (uint64, error) { return bytes, err }
}

// RestoreTelling is Restore, which tells of each step that is done.
func RestoreTelling(ctx context.Context, c Config, from string, reached func(step string)) (kept string, err error) {
	return restore(ctx, c, from, reached)
}

// AlsoAs gives a file a second name.
func AlsoAs(path, as string) error { return alsoAs(path, as) }
