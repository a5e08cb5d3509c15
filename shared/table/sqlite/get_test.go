package sqlite_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"postern/shared/table/sqlite"
)

// TestManyReadAtOnce, more than there are connections, each what it asked for,
// while the table is closed under them.
func TestManyReadAtOnce(t *testing.T) {
	t.Parallel()
	dir := newFolder(t)
	s := open(t, sqlite.Config{Dir: dir})
	names := strings.Split("abcdefghijklmnop", "")
	for _, name := range names {
		put(t, s, name, "the value of "+name)
	}
	var begun, ended sync.WaitGroup
	begun.Add(len(names))
	for _, name := range names {
		ended.Go(func() {
			for n := 0; ; n++ {
				if n == 20 {
					begun.Done()
				}
				item, err := s.Get(t.Context(), key(name))
				if err != nil && n >= 20 && strings.Contains(err.Error(), "the table is closed") {
					return
				}
				if err != nil || string(item.Value) != "the value of "+name {
					t.Errorf("%s: %q, error %v", name, item.Value, err)
					if n < 20 {
						begun.Done()
					}
					return
				}
			}
		})
	}
	begun.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	ended.Wait()
	// Who was last has emptied the log, as one does who left nothing open.
	if _, err := os.Stat(filepath.Join(dir, "postern.db-wal")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the log of a closed table: error %v", err)
	}
}

// TestForeignItem: what somebody else has put into a column is no item.
func TestForeignItem(t *testing.T) {
	t.Parallel()
	s := open(t, sqlite.Config{Dir: newFolder(t)})
	for _, column := range []string{"ver = 'x'", "exp = 'x'", "val = 'x'"} {
		put(t, s, column, "one")
		if err := sqlite.Exec(s, "UPDATE items SET "+column+" WHERE sk = '"+strings.ReplaceAll(column, "'", "''")+"'"); err != nil {
			t.Fatal(err)
		}
		if item, err := s.Get(t.Context(), key(column)); err == nil || !strings.Contains(err.Error(), "not as postern writes items") {
			t.Errorf("%s: %+v, error %v", column, item, err)
		}
	}
}
