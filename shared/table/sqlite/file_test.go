package sqlite_test

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/shared/table"
	"postern/shared/table/sqlite"
)

// TestRefusedFiles is P18 for the data folder: what isn't ours, or isn't whole,
// is refused with the file's name and a cure, and left as it is.
func TestRefusedFiles(t *testing.T) {
	t.Parallel()
	good := database(t)
	changed := func(at int, with ...byte) []byte {
		b := append([]byte(nil), good...)
		copy(b[at:], with)
		return b
	}
	number := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	rows := []struct {
		name string
		file []byte
		says string
	}{
		{"text", []byte("these are not the bytes of a database, however long they are: " + strings.Repeat("x", 8192)), "is no database"},
		{"a few bytes", []byte("SQLite format 3\x00"), "is no database"},
		{"zeros", make([]byte, 8192), "is no database"},
		{"another application's", changed(68, number(0x47504b47)...), "is another application's database (application id 0x47504b47): choose another data folder"},
		{"an application's that doesn't say which", changed(68, number(0)...), "is another application's database"},
		{"a later version", changed(60, number(2)...), "is of version 2, and this postern knows version 1: run the postern that wrote it"},
		{"no version", changed(60, number(0)...), "is of version 0"},
		{"the half of one", good[:len(good)/2], "is damaged: its end is missing: move it away to begin anew, or restore it from a backup"},
		{"all but the last byte", good[:len(good)-1], "is damaged: its end is missing"},
		{"a page overwritten", changed(4096, make([]byte, 4096)...), "is damaged"},
		{"another page overwritten", changed(len(good)-4096, []byte(strings.Repeat("\xff", 4096))...), "is damaged"},
		{"a schema overwritten", changed(120, []byte(strings.Repeat("\xff", 3976))...), "is damaged"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			dir := newFolder(t)
			path := filepath.Join(dir, "postern.db")
			if err := os.WriteFile(path, row.file, 0o640); err != nil {
				t.Fatal(err)
			}
			before := contents(t, dir)
			for name, open := range map[string]func(sqlite.Config) (*sqlite.Table, error){"open": sqlite.Open, "beside": sqlite.Beside} {
				s, err := open(sqlite.Config{Dir: dir})
				if err == nil {
					s.Close()
					t.Fatalf("%s: no error", name)
				}
				if !strings.Contains(err.Error(), "postern.db "+row.says) || !strings.Contains(err.Error(), path) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if diff := cmp.Diff(before, contents(t, dir)); diff != "" {
				t.Errorf("the folder has changed (-before +after):\n%s", diff)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			put(t, open(t, sqlite.Config{Dir: dir}), "a", "one") // nothing stands in the way any more
		})
	}
}

// database is a good one of several pages.
func database(t *testing.T) []byte {
	dir := newFolder(t)
	s := open(t, sqlite.Config{Dir: dir})
	for _, k := range []string{"a", "b", "c"} {
		put(t, s, k, strings.Repeat(k, 3000))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "postern.db"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// contents are a folder's files, without the lock.
func contents(t *testing.T, dir string) map[string]string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if entry.Name() != "postern.lock" {
			b, _ := os.ReadFile(filepath.Join(dir, entry.Name()))
			files[entry.Name()] = info.Mode().String() + " " + string(b)
		}
	}
	return files
}

// TestRefusedFolders: what stands in the way is named, and nothing goes around it.
func TestRefusedFolders(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name    string
		prepare func(dir string) error
		says    string
	}{
		{"a file where the folder is to be", func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, "making the data folder: "},
		{"a file on the way there", func(dir string) error { return os.WriteFile(filepath.Dir(dir), nil, 0o600) }, "making the data folder: "},
		{"the database is a symbolic link", within("postern.db", func(path string) error { return os.Symlink(path+"elsewhere", path) }), "postern.db is a symbolic link, not a file: move it away"},
		{"its log is one", within("postern.db-wal", func(path string) error { return os.Symlink(path+"elsewhere", path) }), "postern.db-wal is a symbolic link"},
		{"the database is a folder", within("postern.db", func(path string) error { return os.Mkdir(path, 0o700) }), "postern.db is a folder, not a file"},
		{"the lock is a symbolic link", within("postern.lock", func(path string) error { return os.Symlink(path+"elsewhere", path) }), "locking the data folder: "},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			root := newFolder(t)
			dir := filepath.Join(root, "some", "data")
			if err := os.MkdirAll(root, 0o700); err != nil {
				t.Fatal(err)
			}
			if row.name != "a file on the way there" {
				if err := os.Mkdir(filepath.Dir(dir), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := row.prepare(dir); err != nil {
				t.Fatal(err)
			}
			s, err := sqlite.Open(sqlite.Config{Dir: dir})
			if err == nil {
				s.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), row.says) || !strings.Contains(err.Error(), root) {
				t.Error(err)
			}
			if found, _ := filepath.Glob(filepath.Join(dir, "*elsewhere")); len(found) > 0 {
				t.Errorf("it made %q", found)
			}
		})
	}
	if _, err := sqlite.Open(sqlite.Config{}); err == nil {
		t.Error("no folder is opened")
	}
}

// within prepares a file in the folder.
func within(name string, prepare func(path string) error) func(string) error {
	return func(dir string) error {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		return prepare(filepath.Join(dir, name))
	}
}

// TestFoldersOfOthers: who may write to the folder may put other keys there, so
// such a folder is refused, with a cure, and nothing is put into it.
func TestFoldersOfOthers(t *testing.T) {
	t.Parallel()
	for mode, refused := range map[fs.FileMode]bool{0o700: false, 0o755: false, 0o750: false, 0o720: true, 0o702: true, 0o775: true, 0o777: true, 0o777 | fs.ModeSticky: true} {
		for name, open := range map[string]func(sqlite.Config) (*sqlite.Table, error){"open": sqlite.Open, "beside": sqlite.Beside} {
			dir := filepath.Join(newFolder(t), "data")
			if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, mode)); err != nil {
				t.Fatal(err)
			}
			s, err := open(sqlite.Config{Dir: dir})
			if err == nil {
				s.Close()
			}
			if !refused {
				if err != nil {
					t.Errorf("%s, %v: %v", name, mode, err)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), dir) || !strings.HasSuffix(err.Error(), ": chmod 700 "+dir) {
				t.Errorf("%s, %v: error %v", name, mode, err)
			}
			if entries, err := os.ReadDir(dir); len(entries) > 0 || err != nil {
				t.Errorf("%s, %v: it made %v, error %v", name, mode, entries, err)
			}
		}
	}
}

// TestLostFiles: who has another file open than the one that stands there does
// nothing any more, says so once, and goes on when it is opened anew.
func TestLostFiles(t *testing.T) {
	t.Parallel()
	move := func(path string) error { return os.Rename(path, path+"-away") }
	for name, lose := range map[string]func(dir string) error{
		"the database is deleted": func(dir string) error { return os.Remove(filepath.Join(dir, "postern.db")) },
		"the database is moved":   func(dir string) error { return move(filepath.Join(dir, "postern.db")) },
		"the database is replaced": func(dir string) error {
			path := filepath.Join(dir, "postern.db")
			b, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(path+"-copy", b, 0o600), os.Rename(path+"-copy", path))
		},
		"the folder is deleted":  os.RemoveAll,
		"the folder is moved":    move,
		"the folder is replaced": func(dir string) error { return errors.Join(move(dir), os.Mkdir(dir, 0o700)) },
	} {
		for when, notice := range map[string]func(*sqlite.Table) error{
			"a value is put":      func(s *sqlite.Table) error { _, err := s.Put(t.Context(), key("b"), nil, 0, never); return err },
			"one is deleted":      func(s *sqlite.Table) error { return s.Delete(t.Context(), key("a"), 1) },
			"a second has passed": sqlite.Flush,
		} {
			t.Run(name+", "+when, func(t *testing.T) {
				t.Parallel()
				dir := filepath.Join(newFolder(t), "data")
				var mu sync.Mutex
				var told []error
				s, err := sqlite.Open(sqlite.Config{Dir: dir, Err: func(err error) {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, err)
				}})
				if err != nil {
					t.Fatal(err)
				}
				put(t, s, "a", "one")
				add(t, s, "n", 1, 1)
				if err := errors.Join(sqlite.Flush(s), lose(dir)); err != nil {
					t.Fatal(err)
				}
				refused := func(what string, err error) {
					t.Helper()
					if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "postern.db")+" was moved, deleted or replaced") || !strings.Contains(err.Error(), "start anew") {
						t.Errorf("%s: error %v", what, err)
					}
				}
				refused(when, notice(s))
				_, err = s.Get(t.Context(), key("a"))
				refused("get", err)
				_, err = s.List(t.Context(), "p", table.Query{Limit: 1})
				refused("list", err)
				_, _, err = s.Add(t.Context(), key("n"), []table.Delta{{Counter: "n", By: 1}}, table.NoMax, never)
				refused("add", err)
				_, err = s.Put(t.Context(), key("c"), nil, 0, never)
				refused("put", err)
				refused("delete", s.Delete(t.Context(), key("a"), 1))
				refused("flush", sqlite.Flush(s))
				refused("close", s.Close())
				mu.Lock()
				if len(told) != 1 {
					t.Errorf("told %d times: %v", len(told), told)
				}
				mu.Unlock()
				put(t, open(t, sqlite.Config{Dir: dir}), "z", "one")
			})
		}
	}
}

// TestLostBeside: who works beside the owner acknowledges nothing either that
// nobody finds again.
func TestLostBeside(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(newFolder(t), "data")
	s := beside(t, sqlite.Config{Dir: dir})
	put(t, s, "a", "one")
	if err := os.Remove(filepath.Join(dir, "postern.db")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), key("b"), nil, 0, never); err == nil || !strings.Contains(err.Error(), "was moved, deleted or replaced") {
		t.Errorf("error %v", err)
	}
}

// TestExisting: who only looks makes neither a folder nor a database.
func TestExisting(t *testing.T) {
	t.Parallel()
	root := newFolder(t)
	c := sqlite.Config{Dir: filepath.Join(root, "data"), Existing: true}
	refused := func() {
		t.Helper()
		if s, err := sqlite.Beside(c); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v, error %v", s, err)
		}
	}
	refused()
	if len(contents(t, root)) > 0 {
		t.Error("the folder was made")
	}
	if err := os.Mkdir(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	refused()
	if len(contents(t, c.Dir)) > 0 {
		t.Error("a database was made")
	}
	put(t, open(t, sqlite.Config{Dir: c.Dir}), "a", "one")
	if item, err := beside(t, c).Get(t.Context(), key("a")); string(item.Value) != "one" {
		t.Errorf("%q, error %v", item.Value, err)
	}
}

// TestAnyFolderName: SQLite takes names as URIs, which some characters end.
func TestAnyFolderName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a b", "what?", "50%", "%41", "a#b", "é", "'", "?mode=memory", "&_txlock=x"} {
		dir := filepath.Join(newFolder(t), name)
		s := open(t, sqlite.Config{Dir: dir})
		put(t, s, "a", "one")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(dir, "postern.db")); err != nil || info.Size() == 0 {
			t.Errorf("%q: %v, error %v", name, info, err)
		}
	}
}
