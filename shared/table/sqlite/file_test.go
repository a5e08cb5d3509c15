package sqlite_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
			dir := t.TempDir()
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
	dir := t.TempDir()
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
			root := t.TempDir()
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

// TestAnyFolderName: SQLite takes names as URIs, which some characters end.
func TestAnyFolderName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a b", "what?", "50%", "%41", "a#b", "é", "'", "?mode=memory", "&_txlock=x"} {
		dir := filepath.Join(t.TempDir(), name)
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
