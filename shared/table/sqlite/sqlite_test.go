package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/table"
	"postern/shared/table/memory"
	"postern/shared/table/sqlite"
	"postern/shared/table/tabletest"
)

func TestTable(t *testing.T) {
	t.Parallel()
	tabletest.Run(t, func(t *testing.T, now func() time.Time) table.Table {
		return open(t, sqlite.Config{Dir: newFolder(t), Now: now})
	})
}

// TestTableFromTheFile holds the owner to the same where memory has nothing.
func TestTableFromTheFile(t *testing.T) {
	t.Parallel()
	tabletest.Run(t, func(t *testing.T, now func() time.Time) table.Table {
		return forgetful{t, open(t, sqlite.Config{Dir: newFolder(t), Now: now})}
	})
}

// forgetful has written and forgotten its counters before each operation.
type forgetful struct {
	t *testing.T
	*sqlite.Table
}

func (f forgetful) forget() *sqlite.Table {
	if err := sqlite.Flush(f.Table); err != nil {
		f.t.Errorf("flush: %v", err)
	}
	sqlite.Forget(f.Table)
	return f.Table
}

func (f forgetful) Get(ctx context.Context, key table.Key) (table.Item, error) {
	return f.forget().Get(ctx, key)
}

func (f forgetful) List(ctx context.Context, partition string, q table.Query) ([]table.Item, error) {
	return f.forget().List(ctx, partition, q)
}

func (f forgetful) Add(ctx context.Context, key table.Key, deltas []table.Delta, max int64, expires time.Time) (int64, bool, error) {
	return f.forget().Add(ctx, key, deltas, max, expires)
}

// newFolder is a folder that nobody else may write to, whatever the umask.
func newFolder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// open opens the owner's table until the test's end.
func open(t testing.TB, c sqlite.Config) *sqlite.Table {
	t.Helper()
	return opened(t, c, sqlite.Open)
}

func beside(t testing.TB, c sqlite.Config) *sqlite.Table {
	t.Helper()
	return opened(t, c, sqlite.Beside)
}

func opened(t testing.TB, c sqlite.Config, open func(sqlite.Config) (*sqlite.Table, error)) *sqlite.Table {
	t.Helper()
	s, err := open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// Short forms for what most tests do.

var never time.Time

func key(sort string) table.Key { return table.Key{Partition: "p", Sort: sort} }

func put(t testing.TB, s table.Table, sort, value string) {
	t.Helper()
	if _, err := s.Put(t.Context(), key(sort), []byte(value), 0, never); err != nil {
		t.Fatal(err)
	}
}

func add(t testing.TB, s table.Table, sort string, by, want int64) {
	t.Helper()
	v, added, err := s.Add(t.Context(), key(sort), []table.Delta{{Counter: "n", By: by}}, table.NoMax, never)
	if v != want || !added || err != nil {
		t.Fatalf("%q stands at %d, added %t, error %v; want %d", sort, v, added, err, want)
	}
}

func count(t testing.TB, s table.Table, sort string) int64 {
	t.Helper()
	item, err := s.Get(t.Context(), key(sort))
	if err != nil && !errors.Is(err, table.ErrNotFound) {
		t.Fatal(err)
	}
	return item.Counters["n"]
}

// TestLikeMemory does at random what memory does too, over a few keys, while
// counters are written and forgotten at any moment.
func TestLikeMemory(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 0))
			now := time.Unix(1_800_000_000, 0)
			clock := func() time.Time { return now }
			s, m := open(t, sqlite.Config{Dir: newFolder(t), Now: clock}), &memory.Table{Now: clock}
			for step := range 1500 {
				// Values have upper-case keys, and counters lower-case ones.
				value, counters := key(string('A'+rune(r.IntN(6)))), key(string('a'+rune(r.IntN(6))))
				var expires time.Time
				if r.IntN(2) == 0 {
					expires = now.Add(time.Duration(r.IntN(20)) * time.Second)
				}
				type answer struct {
					Item  table.Item
					Items []table.Item
					N     int64
					OK    bool
					Err   string
				}
				var do func(table.Table) (answer, error)
				switch what := r.IntN(8); what {
				case 0, 1:
					version := int64(r.IntN(3))
					do = func(s table.Table) (a answer, err error) {
						a.N, err = s.Put(t.Context(), value, fmt.Append(nil, step), version, expires)
						return a, err
					}
				case 2:
					version := int64(1 + r.IntN(2))
					do = func(s table.Table) (a answer, err error) { return a, s.Delete(t.Context(), value, version) }
				case 3, 4:
					deltas := []table.Delta{{Counter: string('m' + rune(r.IntN(3))), By: int64(r.IntN(8) - 2)}, {Counter: "z", By: 1}}
					max := int64(r.IntN(20))
					do = func(s table.Table) (a answer, err error) {
						a.N, a.OK, err = s.Add(t.Context(), counters, deltas, max, expires)
						return a, err
					}
				case 5:
					do = func(s table.Table) (a answer, err error) {
						a.Item, err = s.Get(t.Context(), counters)
						return a, err
					}
				default:
					q := table.Query{Limit: 1 + r.IntN(13), Reversed: r.IntN(2) == 0}
					if r.IntN(2) == 0 {
						q.After = counters.Sort
					}
					do = func(s table.Table) (a answer, err error) {
						a.Items, err = s.List(t.Context(), "p", q)
						return a, err
					}
				}
				want, wantErr := do(m)
				got, err := do(s)
				if diff := cmp.Diff(want, got); diff != "" || !errors.Is(err, wantErr) {
					t.Fatalf("step %d: error %v, want %v (-want +got):\n%s", step, err, wantErr, diff)
				}
				switch r.IntN(6) {
				case 0:
					now = now.Add(time.Duration(r.IntN(3)) * time.Second)
				case 1, 2:
					if err := sqlite.Flush(s); err != nil {
						t.Fatal(err)
					}
				case 3:
					sqlite.Forget(s)
				}
			}
		})
	}
}

// TestCountersAreWrittenBehind: every second, and by Close; the owner sees them at
// once.
func TestCountersAreWrittenBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := sqlite.Config{Dir: newFolder(t)}
		s, cli := open(t, c), beside(t, c)
		add(t, s, "a", 1, 1)
		add(t, s, "a", 2, 3)
		if n := count(t, s, "a"); n != 3 {
			t.Errorf("the owner sees %d", n)
		}
		if n := count(t, cli, "a"); n != 0 {
			t.Errorf("who is beside sees %d before they are written", n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := count(t, cli, "a"); n != 3 {
			t.Errorf("who is beside sees %d after a second", n)
		}
		add(t, s, "a", 4, 7)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if n := count(t, cli, "a"); n != 7 {
			t.Errorf("Close has written %d", n)
		}
		if _, _, err := s.Add(t.Context(), key("a"), []table.Delta{{Counter: "n", By: 1}}, table.NoMax, never); err == nil {
			t.Error("a closed table adds")
		}
		add(t, open(t, c), "a", 1, 8)
	})
}

// TestCountersThatCantBeWritten are kept, told of once, and written when they can
// be.
func TestCountersThatCantBeWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // no second passes by itself
		var told []error
		c := sqlite.Config{Dir: newFolder(t), Err: func(err error) { told = append(told, err) }}
		s, cli := open(t, c), beside(t, c)
		add(t, s, "before", 5, 5)
		if err := errors.Join(sqlite.Flush(s), sqlite.Exec(s, "PRAGMA max_page_count = 1")); err != nil {
			t.Fatal(err)
		}
		for i := range 2000 { // more than the pages there are take
			add(t, s, fmt.Sprint("many", i), 1, 1)
		}
		add(t, s, "before", 1, 6)
		for range 3 {
			if err := sqlite.Flush(s); err == nil || !strings.Contains(err.Error(), "the disk is full") {
				t.Fatalf("flush: error %v", err)
			}
		}
		if len(told) != 1 {
			t.Errorf("told %d times: %v", len(told), told)
		}
		if n := count(t, cli, "before"); n != 5 {
			t.Errorf("half of a transaction is written: %d", n)
		}
		add(t, s, "before", 1, 7)
		sqlite.Forget(s)
		add(t, s, "before", 1, 8)
		if _, err := s.Put(t.Context(), key("value"), make([]byte, table.MaxValue), 0, never); err == nil || !strings.Contains(err.Error(), "the disk is full") {
			t.Errorf("put: error %v", err)
		}
		if err := errors.Join(sqlite.Exec(s, "PRAGMA max_page_count = 1000000"), sqlite.Flush(s)); err != nil {
			t.Fatal(err)
		}
		if n, m := count(t, cli, "before"), count(t, cli, "many1999"); n != 8 || m != 1 {
			t.Errorf("%d and %d are written", n, m)
		}
		if len(told) != 1 {
			t.Errorf("told %d times: %v", len(told), told)
		}
	})
}

// TestTheLastOfTheDisk is for what can't wait: however much callers have stored,
// a key can be revoked, and what there is comes to its end.
func TestTheLastOfTheDisk(t *testing.T) {
	t.Parallel()
	s := open(t, sqlite.Config{Dir: newFolder(t)})
	callers := s.Sparing()
	write := func(to table.Table, k string, size int, expected int64) error {
		_, err := to.Put(t.Context(), key(k), make([]byte, size), expected, never)
		return err
	}
	sqlite.Left(s, 64<<20, nil)
	if err := errors.Join(s.Room(), write(callers, "a job", 100, 0), write(callers, "a conversation", 100<<10, 0), write(s, "a key", 400, 0)); err != nil {
		t.Fatal(err)
	}
	for _, full := range []struct {
		left uint64
		err  error
		says string
	}{
		{64<<20 - 1, nil, "the disk has less than 64 MiB left, which are kept for keys and audit: make room"},
		{0, nil, "the disk has less than 64 MiB left"},
		{0, errors.New("no answer"), "asking how full the disk of "},
	} {
		sqlite.Left(s, full.left, full.err)
		for what, err := range map[string]error{
			"asked":                 s.Room(),
			"another job":           write(callers, "another job", 100, 0),
			"a longer conversation": write(callers, "a conversation", 4<<10+1, 1),
		} {
			if err == nil || !strings.Contains(err.Error(), full.says) || !strings.Contains(err.Error(), "postern.db") {
				t.Errorf("%s: %d bytes left, %v: error %v", what, full.left, full.err, err)
			}
		}
		if err := write(callers, "", 100, 0); err == nil || strings.Contains(err.Error(), full.says) {
			t.Errorf("no key: error %v", err)
		}
	}
	err := errors.Join(write(callers, "a job", 4<<10, 1), callers.Delete(t.Context(), key("a conversation"), 1),
		write(s, "a key", 400, 1), write(s, "a result", 100<<10, 0))
	if err != nil {
		t.Errorf("what must go on: %v", err)
	}
}

// TestMemoryOfCountersIsBounded: what is written and left alone is forgotten, and
// goes on where it stood.
func TestMemoryOfCountersIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // no second passes by itself
		s := open(t, sqlite.Config{Dir: newFolder(t)})
		for i := range 1000 {
			add(t, s, fmt.Sprint(i), int64(i), int64(i))
		}
		for second := range 120 {
			add(t, s, "busy", 1, int64(second+1))
			if err := sqlite.Flush(s); err != nil {
				t.Fatal(err)
			}
			if n := sqlite.Tallies(s); second < 50 && n != 1001 {
				t.Fatalf("%d are in memory after %d seconds", n, second)
			}
		}
		if n := sqlite.Tallies(s); n != 1 {
			t.Errorf("%d are in memory after two minutes", n)
		}
		add(t, s, "999", 1, 1000)
		if _, added, err := s.Add(t.Context(), key("nothing"), []table.Delta{{Counter: "n", By: 1}}, 0, never); added || err != nil {
			t.Errorf("added %t, error %v", added, err)
		}
		if n := sqlite.Tallies(s); n != 2 {
			t.Errorf("%d are in memory", n)
		}
	})
}

// TestNoMoreCountersThanRoom: P15. Those in memory go on, and others once there
// is room.
func TestNoMoreCountersThanRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // no second passes by itself
		s := open(t, sqlite.Config{Dir: newFolder(t)})
		sqlite.Room(s, 2)
		add(t, s, "a", 1, 1)
		add(t, s, "b", 1, 1)
		if _, added, err := s.Add(t.Context(), key("c"), []table.Delta{{Counter: "n", By: 1}}, table.NoMax, never); added || err == nil {
			t.Errorf("added %t, error %v", added, err)
		}
		add(t, s, "a", 1, 2)
		if err := sqlite.Flush(s); err != nil {
			t.Fatal(err)
		}
		sqlite.Forget(s)
		add(t, s, "c", 1, 1)
	})
}

// TestThePowerMayFail: a write is acknowledged when the disk has it, which
// SQLite calls FULL.
func TestThePowerMayFail(t *testing.T) {
	t.Parallel()
	c := sqlite.Config{Dir: newFolder(t)}
	for _, s := range []*sqlite.Table{open(t, c), beside(t, c)} {
		if level, err := sqlite.Synchronous(s); level != 2 || err != nil {
			t.Errorf("level %d, error %v", level, err)
		}
	}
}

// TestExpiredItemsLeaveTheFile, those in use do not.
func TestExpiredItemsLeaveTheFile(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	s := open(t, sqlite.Config{Dir: newFolder(t), Now: func() time.Time { return now }})
	put(t, s, "stays", "one")
	for i := range 500 {
		if _, err := s.Put(t.Context(), key(fmt.Sprint(i)), nil, 0, now.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range []string{"stays too", "stays longer"} {
		if _, _, err := s.Add(t.Context(), key(k), []table.Delta{{Counter: "n", By: 1}}, table.NoMax, now.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if err := sqlite.Flush(s); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"stays too", "stays longer"} {
		if _, _, err := s.Add(t.Context(), key(k), []table.Delta{{Counter: "n", By: 1}}, table.NoMax, now.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(time.Second)
	for range 60 {
		if err := sqlite.Flush(s); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := sqlite.Rows(s); n != 3 || err != nil {
		t.Errorf("%d items are left, error %v", n, err)
	}
	if n := count(t, s, "stays too"); n != 2 {
		t.Errorf("a counter stands at %d", n)
	}
}

// TestBesideAddsNothing, since it would not be seen by the owner.
func TestBesideAddsNothing(t *testing.T) {
	t.Parallel()
	cli := beside(t, sqlite.Config{Dir: newFolder(t)})
	_, added, err := cli.Add(t.Context(), key("a"), []table.Delta{{Counter: "n", By: 1}}, table.NoMax, never)
	if added || err == nil || !strings.Contains(err.Error(), "by the server that owns it alone") {
		t.Errorf("added %t, error %v", added, err)
	}
}

// TestOthersMayNotRead what is in the folder, nor list it.
func TestOthersMayNotRead(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(newFolder(t), "data")
	put(t, open(t, sqlite.Config{Dir: dir}), "a", "one")
	modes := map[string]fs.FileMode{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		modes[strings.TrimPrefix(path, dir)] = info.Mode()
		return err
	})
	want := map[string]fs.FileMode{"": fs.ModeDir | 0o700, "/postern.db": 0o600, "/postern.db-wal": 0o600, "/postern.db-shm": 0o600, "/postern.lock": 0o600}
	if diff := cmp.Diff(want, modes); diff != "" || err != nil {
		t.Errorf("error %v, modes (-want +got):\n%s", err, diff)
	}
}

// TestACopyIsClosedToOthers: a database that was restored for all to read.
func TestACopyIsClosedToOthers(t *testing.T) {
	t.Parallel()
	dir := newFolder(t)
	path := filepath.Join(dir, "postern.db")
	if err := errors.Join(open(t, sqlite.Config{Dir: dir}).Close(), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	open(t, sqlite.Config{Dir: dir})
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, error %v", info.Mode(), err)
	}
}

// TestAddTakesNoMemory: a counter in use is added to without an allocation.
func TestAddTakesNoMemory(t *testing.T) {
	s := open(t, sqlite.Config{Dir: newFolder(t)})
	deltas := []table.Delta{{Counter: "n", By: 1}, {Counter: "m", By: 1}}
	until := time.Now().Add(time.Hour)
	n := testing.AllocsPerRun(1000, func() {
		if _, added, err := s.Add(t.Context(), key("a"), deltas, table.NoMax, until); !added || err != nil {
			t.Fatal(added, err)
		}
	})
	if n > 0 {
		t.Errorf("it takes %v", n)
	}
}
