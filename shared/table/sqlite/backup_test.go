//go:build unix

package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/table"
	"postern/shared/table/sqlite"
)

// TestABackupIsOneMoment of a server that writes all the time: it has all that was
// acknowledged before, and of each writer's items no later one without an earlier.
func TestABackupIsOneMoment(t *testing.T) {
	t.Parallel()
	dir, to := newFolder(t), newFolder(t)
	writers := start(t, "writers", dir)
	acknowledged := map[string]bool{}
	for round := range 4 {
		for range 100 {
			acknowledged[writers.line()] = true
		}
		copied := backup(t, dir, filepath.Join(to, fmt.Sprint(round)))
		found := items(t, copied)
		for k := range acknowledged {
			if _, there := found[k]; !there {
				t.Errorf("round %d: %q was acknowledged before", round, k)
			}
		}
		for k, value := range found {
			var i, n int
			if _, err := fmt.Sscanf(k, "%d-%d", &i, &n); err != nil || value != strings.Repeat(k, 500) {
				t.Errorf("round %d: %q has %d bytes, error %v", round, k, len(value), err)
			}
			if _, there := found[fmt.Sprintf("%d-%d", i, n-1)]; n > 0 && !there {
				t.Errorf("round %d: %q without the one before", round, k)
			}
		}
		if info, err := os.Stat(copied); err != nil || info.Mode() != 0o600 {
			t.Errorf("round %d: %v, error %v", round, info.Mode(), err)
		}
	}
	if entries, err := os.ReadDir(to); len(entries) != 4 || err != nil {
		t.Errorf("beside the backups there is %v, error %v", entries, err)
	}
}

// TestABackupTakesNobodysPlace, and leaves nothing where it fails.
func TestABackupTakesNobodysPlace(t *testing.T) {
	t.Parallel()
	c := sqlite.Config{Dir: newFolder(t)}
	s := open(t, c)
	put(t, s, "a", "one")
	to := newFolder(t)
	file, link, folder := filepath.Join(to, "file"), filepath.Join(to, "link"), filepath.Join(to, "folder")
	if err := errors.Join(os.WriteFile(file, []byte("mine"), 0o644), os.Symlink("nowhere", link), os.Mkdir(folder, 0o700)); err != nil {
		t.Fatal(err)
	}
	before := contents(t, to)
	for path, says := range map[string]string{
		file:                             file + " is there already",
		link:                             link + " is there already",
		folder:                           folder + " is there already",
		filepath.Join(to, "no", "where"): "no such file or directory: name a file in a folder",
		filepath.Join(c.Dir, "postern.db-journal"): "is a name that the database itself needs",
	} {
		if err := sqlite.Backup(t.Context(), c, path); err == nil || !strings.Contains(err.Error(), says) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: error %v", path, err)
		}
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := sqlite.Backup(stopped, c, filepath.Join(to, "new")); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: error %v", err)
	}
	if diff := cmp.Diff(before, contents(t, to)); diff != "" {
		t.Errorf("the folder has changed (-before +after):\n%s", diff)
	}
	if err := sqlite.Backup(t.Context(), sqlite.Config{Dir: filepath.Join(to, "data")}, filepath.Join(to, "new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a database: error %v", err)
	}
	put(t, s, "b", "one") // no lock is left
}

// TestADamagedDatabaseIsNotBackedUp: a copy of what SQLite still finds would pass
// for a whole one. This file is larger than what Open reads through.
func TestADamagedDatabaseIsNotBackedUp(t *testing.T) {
	t.Parallel()
	dir := newFolder(t)
	path := filepath.Join(dir, "postern.db")
	if err := os.WriteFile(path, damagedInside(t), 0o600); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(newFolder(t), "copy")
	if err := sqlite.Backup(t.Context(), sqlite.Config{Dir: dir}, copied); err == nil || !strings.Contains(err.Error(), path+" is damaged: ") {
		t.Errorf("error %v", err)
	}
	if left := contents(t, filepath.Dir(copied)); len(left) > 0 {
		t.Errorf("it left %v", slices.Collect(maps.Keys(left)))
	}
}

// damagedInside is a database of more than 8 MiB one of whose index pages has lost
// its last entry.
func damagedInside(t *testing.T) []byte {
	t.Helper()
	dir := newFolder(t)
	s := open(t, sqlite.Config{Dir: dir})
	for i := range 40 {
		put(t, s, fmt.Sprint(i), strings.Repeat("x", 250_000))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "postern.db"))
	if err != nil || len(b) < 9<<20 {
		t.Fatal(len(b), err)
	}
	for page := 4096; page < len(b); page += 4096 {
		if n := binary.BigEndian.Uint16(b[page+3:]); b[page] == 10 && n > 1 { // https://sqlite.org/fileformat2.html#b_tree_pages
			binary.BigEndian.PutUint16(b[page+3:], n-1)
			return b
		}
	}
	t.Fatal("no index page")
	return nil
}

// TestRestoreAfterAKill: the log that a killed server leaves, in which there is
// more than in the backup, isn't worked into it; and it isn't lost.
func TestRestoreAfterAKill(t *testing.T) {
	t.Parallel()
	cold := make([]byte, 512) // a journal that undoes nothing, which SQLite leaves
	for name, before := range map[string]struct {
		mend func(path string) error // the folder of the killed one, before the restore
		kept map[string]string       // what can be read of what was there; nil: nothing
	}{
		"as it was left":              {func(string) error { return nil }, later},
		"without its shared memory":   {func(path string) error { return os.Remove(path + "-shm") }, later},
		"a copy put over it by hand":  {overCopied, later}, // which the log has undone
		"a cold journal":              {func(path string) error { return os.WriteFile(path+"-journal", cold, 0o600) }, later},
		"half a page in the database": {func(path string) error { return overwrite(path, 4096, make([]byte, 4096)) }, later},
		"a header of zeros":           {func(path string) error { return overwrite(path, 0, make([]byte, 100)) }, nil},
		"a later version's":           {func(path string) error { return overwrite(path, 60, []byte{0, 0, 0, 9}) }, nil},
		"the database moved away":     {func(path string) error { return os.Remove(path) }, nil},
		"the folder moved away":       {func(path string) error { return os.RemoveAll(filepath.Dir(path)) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, copied := killed(t)
			path := filepath.Join(dir, "postern.db")
			if err := before.mend(path); err != nil {
				t.Fatal(err)
			}
			lay := contentsIfAny(t, dir)
			kept, err := sqlite.Restore(t.Context(), sqlite.Config{Dir: dir}, copied)
			if err != nil {
				t.Fatal(err)
			}
			if (kept == "") != (len(lay) == 0) {
				t.Errorf("there was %v, kept as %q", slices.Collect(maps.Keys(lay)), kept)
			}
			for _, end := range []string{"-wal", "-shm", "-journal", "-restoring"} {
				if b, err := os.ReadFile(path + end); !errors.Is(err, fs.ErrNotExist) && !bytes.Equal(b, cold) {
					t.Errorf("postern.db%s is there, error %v", end, err)
				}
			}
			if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
				t.Errorf("%v, error %v", info.Mode(), err)
			}
			isBackup(t, dir)
			if before.kept != nil {
				other := filepath.Join(newFolder(t), "other")
				if _, err := sqlite.Restore(t.Context(), sqlite.Config{Dir: other}, kept); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(before.kept, values(t, other)); diff != "" {
					t.Errorf("what was there (-want +got):\n%s", diff)
				}
			} else if kept != "" {
				for end, b := range lay {
					if end = strings.TrimPrefix(end, "postern.db"); end == "-shm" {
						continue
					}
					if now := contents(t, dir)[filepath.Base(kept)+end]; now != b {
						t.Errorf("postern.db%s is not as it was under its other name", end)
					}
				}
			}
		})
	}
}

func contentsIfAny(t *testing.T, dir string) map[string]string {
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	return contents(t, dir)
}

// TestRestoreOfADatabaseThatSQLiteCannotUse moves it away as it is.
func TestRestoreOfADatabaseThatSQLiteCannotUse(t *testing.T) {
	t.Parallel()
	for name, file := range map[string][]byte{
		"damaged inside, larger than 8 MiB": damagedInside(t),
		"without items":                     withoutItems(t),
		"text":                              []byte("no database"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, copied := killed(t)
			dir := newFolder(t)
			if err := os.WriteFile(filepath.Join(dir, "postern.db"), file, 0o600); err != nil {
				t.Fatal(err)
			}
			kept, err := sqlite.Restore(t.Context(), sqlite.Config{Dir: dir}, copied)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(kept); !bytes.Equal(b, file) || err != nil {
				t.Errorf("kept are %d bytes of %d, or others, error %v", len(b), len(file), err)
			}
			isBackup(t, dir)
			if found := slices.Sorted(maps.Keys(contents(t, dir))); len(found) != 2 {
				t.Errorf("there are %q", found)
			}
		})
	}
}

// TestNothingWasThere: what is made on the way isn't kept, nor is what is empty.
func TestNothingWasThere(t *testing.T) {
	t.Parallel()
	_, copied := killed(t)
	for name, make := range map[string]func(path string) error{
		"nothing":       func(string) error { return nil },
		"an empty file": func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"no item": func(path string) error {
			s, err := sqlite.Open(sqlite.Config{Dir: filepath.Dir(path)})
			return errors.Join(err, s.Close())
		},
	} {
		dir := newFolder(t)
		if err := make(filepath.Join(dir, "postern.db")); err != nil {
			t.Fatal(err)
		}
		if kept, err := sqlite.Restore(t.Context(), sqlite.Config{Dir: dir}, copied); kept != "" || err != nil {
			t.Errorf("%s: kept %q, error %v", name, kept, err)
		}
		isBackup(t, dir)
		if found := slices.Sorted(maps.Keys(contents(t, dir))); !slices.Equal(found, []string{"postern.db"}) {
			t.Errorf("%s: there are %q", name, found)
		}
	}
}

// TestRestoreIsAllOrNothing, whenever it is killed: the next start has the old
// database with its log, or the new one. Where the old one is none, it is refused
// in between: Open never begins an empty one.
func TestRestoreIsAllOrNothing(t *testing.T) {
	t.Parallel()
	const (
		bad     = "damaged, "
		halfway = "is missing, since a restore was interrupted: run `postern restore` again"
	)
	for name, want := range map[string]string{
		"kept":                 "the old",
		"filled":               "the old",
		"restored":             "the backup",
		bad + "copied":         "is no database, or is damaged: ",
		bad + "moved ":         halfway,
		bad + "moved -shm":     halfway,
		bad + "moved -wal":     halfway,
		bad + "moved -journal": halfway,
		bad + "restored":       "the backup",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, copied := killed(t)
			step, isBad := strings.CutPrefix(name, bad)
			if isBad {
				if err := overwrite(filepath.Join(dir, "postern.db"), 0, make([]byte, 100)); err != nil {
					t.Fatal(err)
				}
			}
			c := start(t, "restore until", dir, copied, step)
			if said := c.line(); said != "" {
				t.Fatal(said)
			}
			if c.Wait(); c.ProcessState.ExitCode() != -1 {
				t.Fatalf("it wasn't killed: %v", c.ProcessState)
			}
			time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // what is kept is named by the second
			if want == halfway {                                                      // another that fails leaves it so
				if said := start(t, "restore, full from", dir, copied, "the start").line(); !strings.HasPrefix(said, "copying ") {
					t.Errorf("on a full disk: %q", said)
				}
			}
			for _, existing := range []bool{true, false} {
				switch s, err := sqlite.Beside(sqlite.Config{Dir: dir, Existing: existing}); {
				case err == nil:
					if err := s.Close(); err != nil {
						t.Error(err)
					}
					if diff := cmp.Diff(map[string]map[string]string{"the old": later, "the backup": earlier}[want], values(t, dir)); diff != "" {
						t.Errorf("want %s (-want +got):\n%s", want, diff)
					}
				case !strings.Contains(err.Error(), want):
					t.Errorf("want %s, error %v", want, err)
				}
			}
			if _, err := sqlite.Restore(t.Context(), sqlite.Config{Dir: dir}, copied); err != nil {
				t.Fatal(err)
			}
			isBackup(t, dir)
			if _, err := os.Lstat(filepath.Join(dir, "postern.db-restoring")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("postern.db-restoring is there, error %v", err)
			}
		})
	}
}

// TestRestoreOnAFullDisk, from whatever step on, leaves the old database, and no
// copy of it.
func TestRestoreOnAFullDisk(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"the start", "kept", "filled"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			dir, copied := killed(t)
			if said := start(t, "restore, full from", dir, copied, step).line(); said == "" {
				t.Error("it was restored")
			}
			if diff := cmp.Diff(later, values(t, dir)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if found := slices.Sorted(maps.Keys(contents(t, dir))); !slices.Equal(found, []string{"postern.db"}) {
				t.Errorf("there are %q", found)
			}
			if _, err := sqlite.Restore(t.Context(), sqlite.Config{Dir: dir}, copied); err != nil {
				t.Fatal(err)
			}
			isBackup(t, dir)
		})
	}
}

// TestRestoreIsStopped, and what was there stays, until it is done.
func TestRestoreIsStopped(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"the start", "kept", "filled", "restored"} {
		dir, copied := killed(t)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		stopAt := func(step string) {
			if step == at {
				stop()
			}
		}
		stopAt("the start")
		kept, err := sqlite.RestoreTelling(ctx, sqlite.Config{Dir: dir}, copied, stopAt)
		if at == "restored" {
			if kept == "" || err != nil {
				t.Errorf("kept %q, error %v", kept, err)
			}
			isBackup(t, dir)
			continue
		}
		if kept != "" || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: kept %q, error %v", at, kept, err)
		}
		if diff := cmp.Diff(later, values(t, dir)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", at, diff)
		}
		if found := slices.Sorted(maps.Keys(contents(t, dir))); !slices.Equal(found, []string{"postern.db"}) {
			t.Errorf("%s: there are %q", at, found)
		}
	}
}

// TestCommandsBesideARestore come before it, and are in what is kept, or after it,
// and are in the result; those in the middle of it wait.
func TestCommandsBesideARestore(t *testing.T) {
	t.Parallel()
	dir, copied := killed(t)
	commands := start(t, "commands", dir)
	acknowledged := []string{commands.line()}
	kept, err := sqlite.RestoreTelling(t.Context(), sqlite.Config{Dir: dir}, copied, func(step string) {
		if step == "kept" || step == "filled" {
			time.Sleep(500 * time.Millisecond) // for them to come
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 200 { // more than came before
		if said := commands.line(); strings.HasPrefix(said, "command ") {
			acknowledged = append(acknowledged, said)
		} else {
			t.Fatal(said)
		}
	}
	commands.kill()
	before, after := items(t, kept), values(t, dir)
	isAfter := false
	for _, k := range acknowledged {
		_, inKept := before[k]
		_, inResult := after[k]
		if inKept == inResult || isAfter && inKept {
			t.Errorf("%q was acknowledged: in what is kept %t, in the result %t", k, inKept, inResult)
		}
		isAfter = inResult
	}
	if !isAfter {
		t.Error("none came after the restore")
	}
	for k, v := range earlier {
		if after[k] != v {
			t.Errorf("%q is %q", k, after[k])
		}
	}
}

// TestRestoreWaitsForCommands, and gives up, with what was there as it was, if one
// takes too long.
func TestRestoreWaitsForCommands(t *testing.T) {
	t.Parallel()
	for name, seconds := range map[string]time.Duration{"one that ends": 1, "one that doesn't": 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, copied := killed(t)
			holder := start(t, "holder", dir)
			if said := holder.line(); said != "ready" {
				t.Fatal(said)
			}
			end := time.AfterFunc(seconds*time.Second, func() { holder.in.Close() })
			defer end.Stop()
			kept, err := sqlite.Restore(t.Context(), sqlite.Config{Dir: dir}, copied)
			if seconds == 1 {
				if err != nil {
					t.Error(err)
				}
				isBackup(t, dir)
				return
			}
			if err == nil || kept != "" || !strings.Contains(err.Error(), "another process has kept it busy for too long") {
				t.Errorf("kept %q, error %v", kept, err)
			}
			holder.kill()
			if diff := cmp.Diff(later, values(t, dir)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestRestoreIsRefusedWhileAServerRuns.
func TestRestoreIsRefusedWhileAServerRuns(t *testing.T) {
	t.Parallel()
	dir, copied := killed(t)
	s := open(t, sqlite.Config{Dir: dir})
	before := contents(t, dir)
	want := "another postern serves the data folder " + dir + ": stop that one, or give this one a data folder of its own"
	if _, err := sqlite.Restore(t.Context(), sqlite.Config{Dir: dir}, copied); err == nil || err.Error() != want {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before, contents(t, dir)); diff != "" {
		t.Errorf("the folder has changed (-before +after):\n%s", diff)
	}
	put(t, s, "c", "one")
}

// TestRefusedCopies leave the folder as it was, log and all.
func TestRefusedCopies(t *testing.T) {
	t.Parallel()
	good := database(t)
	changed := func(at int, with ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], with)
		return b
	}
	for name, row := range map[string]struct {
		file []byte
		says string
	}{
		"nothing":                          {nil, "copy.db is empty: nothing was changed; name another backup"},
		"text":                             {bytes.Repeat([]byte("no database "), 1000), "copy.db is no database, or is damaged: nothing was changed; name another backup"},
		"another application's":            {changed(68, 1, 2, 3, 4), "copy.db is another application's database (application id 0x1020304): nothing"},
		"a later version":                  {changed(60, 0, 0, 0, 2), "copy.db is of version 2, and this postern knows version 1: nothing"},
		"all but the last byte":            {good[:len(good)-1], "copy.db is damaged: its end is missing: nothing"},
		"the first page":                   {good[:4096], "copy.db is damaged: its end is missing: nothing"},
		"a page overwritten":               {changed(4096, make([]byte, 4096)...), "copy.db is damaged: "},
		"a damaged one, larger than 8 MiB": {damagedInside(t), "copy.db is damaged: SQLite's integrity check fails: "},
		"ours without items":               {withoutItems(t), "copy.db is damaged: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := killed(t)
			copied := filepath.Join(newFolder(t), "copy.db")
			if err := os.WriteFile(copied, row.file, 0o400); err != nil {
				t.Fatal(err)
			}
			refusedCopy(t, dir, copied, row.says)
		})
	}
	dir, _ := killed(t)
	refusedCopy(t, dir, filepath.Join(dir, "nowhere"), "nowhere: no such file or directory")
	refusedCopy(t, dir, filepath.Dir(dir), "is a folder, not a file: name a backup")
	whole := newFolder(t)
	if err := os.WriteFile(filepath.Join(whole, "postern.db"), good, 0o600); err != nil {
		t.Fatal(err)
	}
	refusedCopy(t, whole, filepath.Join(whole, "postern.db"), "is the data folder's own database: name a backup")

	nowhere := filepath.Join(newFolder(t), "data")
	if _, err := sqlite.Restore(t.Context(), sqlite.Config{Dir: nowhere}, os.DevNull); err == nil {
		t.Error("a device was restored")
	}
	if _, err := os.Stat(nowhere); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder was made for a copy that is refused, error %v", err)
	}
}

func refusedCopy(t *testing.T, dir, copied, says string) {
	t.Helper()
	before := contents(t, dir)
	kept, err := sqlite.Restore(t.Context(), sqlite.Config{Dir: dir}, copied)
	if err == nil || kept != "" || !strings.Contains(err.Error(), says) {
		t.Errorf("kept %q, error %v", kept, err)
	}
	if diff := cmp.Diff(before, contents(t, dir)); diff != "" {
		t.Errorf("the folder has changed (-before +after):\n%.2000s", diff)
	}
}

func withoutItems(t *testing.T) []byte {
	t.Helper()
	dir := newFolder(t)
	s := open(t, sqlite.Config{Dir: dir})
	if err := errors.Join(sqlite.Exec(s, "ALTER TABLE items RENAME TO things"), s.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "postern.db"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCopiesByOthers: nothing is written to what is restored, nor beside it. A file
// with a log beside it, which may be another's, is refused, with the way to go if it
// is its own; and no backup is put beside a log.
func TestCopiesByOthers(t *testing.T) {
	t.Parallel()
	dir, _ := killed(t)
	with, folder := newFolder(t), newFolder(t)
	for _, end := range []string{"", "-wal"} {
		copyFile(t, filepath.Join(dir, "postern.db"+end), filepath.Join(with, "copy.db"+end))
		copyFile(t, filepath.Join(dir, "postern.db"+end), filepath.Join(folder, "postern.db"+end))
	}
	before := contents(t, with)
	other := filepath.Join(newFolder(t), "other")
	_, err := sqlite.Restore(t.Context(), sqlite.Config{Dir: other}, filepath.Join(with, "copy.db"))
	if err == nil || !strings.Contains(err.Error(), "copy.db-wal lies beside the backup") || !strings.Contains(err.Error(), "as postern.db and postern.db-wal") {
		t.Errorf("error %v", err)
	}
	if err := os.Remove(filepath.Join(with, "copy.db")); err != nil {
		t.Fatal(err)
	}
	if err := sqlite.Backup(t.Context(), sqlite.Config{Dir: folder}, filepath.Join(with, "copy.db")); err == nil || !strings.Contains(err.Error(), "copy.db-wal is there already") {
		t.Errorf("error %v", err)
	}
	delete(before, "copy.db")
	if diff := cmp.Diff(before, contents(t, with)); diff != "" {
		t.Errorf("(-before +after):\n%.2000s", diff)
	}

	made := filepath.Join(newFolder(t), "made.db")
	if err := sqlite.Backup(t.Context(), sqlite.Config{Dir: folder}, made); err != nil {
		t.Fatal(err)
	}
	before = contents(t, filepath.Dir(made))
	if _, err := sqlite.Restore(t.Context(), sqlite.Config{Dir: other}, made); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(later, values(t, other)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, contents(t, filepath.Dir(made))); diff != "" {
		t.Errorf("the backup has changed (-before +after):\n%.2000s", diff)
	}
}

// TestAPipeIsNoBackup, and isn't waited for.
func TestAPipeIsNoBackup(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(newFolder(t), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Restore(t.Context(), sqlite.Config{Dir: newFolder(t)}, pipe); err == nil || !strings.Contains(err.Error(), "is a special file, not a file: name a backup") {
		t.Errorf("error %v", err)
	}
}

// TestACopyThatCanOnlyBeRead, in a folder that can only be read: SQLite has nowhere
// to put the log that a copy of a server's file asks for.
func TestACopyThatCanOnlyBeRead(t *testing.T) {
	t.Parallel()
	from, dir := newFolder(t), newFolder(t)
	copied := filepath.Join(from, "copy.db")
	err := errors.Join(os.WriteFile(copied, database(t), 0o400), os.Chmod(from, 0o500))
	t.Cleanup(func() { os.Chmod(from, 0o700) })
	if os.Geteuid() == 0 {
		for _, path := range []string{copied, from, dir} {
			err = errors.Join(err, os.Chown(path, nobody, nobody), os.Chmod(filepath.Dir(from), 0o755))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if said := start(t, "nobody's restore until", dir, copied, "never").line(); said != "" {
		t.Fatal(said)
	}
	if found := items(t, filepath.Join(dir, "postern.db")); len(found) != 3 {
		t.Errorf("%d items", len(found))
	}
}

// TestSecondNames where the file system has none: the copy is for the same eyes
// only, and takes nobody's place either.
func TestSecondNames(t *testing.T) {
	t.Parallel()
	elsewhere, err := os.MkdirTemp("/dev/shm", "postern")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(elsewhere) })
	path, as := filepath.Join(newFolder(t), "file"), filepath.Join(elsewhere, "file")
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err = sqlite.AlsoAs(path, as)
		if b, e := os.ReadFile(as); string(b) != "one" || e != nil {
			t.Errorf("%q, error %v", b, e)
		}
		if e := os.WriteFile(path, []byte("two"), 0o600); e != nil {
			t.Fatal(e)
		}
	}
	if err == nil || !strings.Contains(err.Error(), "file exists") && !strings.Contains(err.Error(), "is there already") {
		t.Errorf("a second time: error %v", err)
	}
	if info, err := os.Stat(as); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, error %v", info.Mode(), err)
	}
}

// What is in the folder of killed, and in the backup that was made before.
var (
	earlier = map[string]string{"a": "earlier", "b": "earlier"}
	later   = func() map[string]string {
		m := map[string]string{"a": "later", "b": "earlier"}
		for i := range 20 {
			m[fmt.Sprint("later ", i)] = strings.Repeat("x", 5000)
		}
		return m
	}()
)

// killed is a data folder whose server was killed, with what came since the backup
// in its log.
func killed(t *testing.T) (dir, copied string) {
	t.Helper()
	dir = filepath.Join(newFolder(t), "data")
	s := open(t, sqlite.Config{Dir: dir})
	put(t, s, "a", "earlier")
	put(t, s, "b", "earlier")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	copied = backup(t, dir, filepath.Join(newFolder(t), "copy.db"))
	c := start(t, "later", dir)
	if said := c.line(); said != "ready" {
		t.Fatal(said)
	}
	c.kill()
	if info, err := os.Stat(filepath.Join(dir, "postern.db-wal")); err != nil || info.Size() == 0 {
		t.Fatalf("%v, error %v", info, err)
	}
	return dir, copied
}

func backup(t *testing.T, dir, to string) string {
	t.Helper()
	if err := sqlite.Backup(t.Context(), sqlite.Config{Dir: dir}, to); err != nil {
		t.Fatal(err)
	}
	return to
}

// isBackup holds a folder to the backup, as a server finds it.
func isBackup(t *testing.T, dir string) {
	t.Helper()
	if diff := cmp.Diff(earlier, values(t, dir)); diff != "" {
		t.Errorf("not what the backup has (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(earlier, items(t, filepath.Join(dir, "postern.db"))); diff != "" {
		t.Errorf("in the file (-want +got):\n%s", diff)
	}
}

// values is what a server finds.
func values(t *testing.T, dir string) map[string]string {
	t.Helper()
	s, err := sqlite.Open(sqlite.Config{Dir: dir})
	if err != nil {
		t.Error(err)
		return nil
	}
	defer s.Close()
	list, err := s.List(t.Context(), "p", table.Query{Limit: table.MaxList})
	if err != nil {
		t.Error(err)
	}
	found := map[string]string{}
	for _, item := range list {
		found[item.Sort] = string(item.Value)
	}
	return found
}

// items is what a whole file has.
func items(t *testing.T, path string) map[string]string {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("%s: %s, error %v", path, verdict, err)
	}
	rows, err := db.Query("SELECT sk, val FROM items")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	found := map[string]string{}
	for rows.Next() {
		var k, value string
		if err := rows.Scan(&k, &value); err != nil {
			t.Fatal(err)
		}
		found[k] = value
	}
	return found
}

// overCopied puts another database where the log of a killed server lies, as the
// README warns.
func overCopied(path string) error {
	b, err := os.ReadFile(path)
	return errors.Join(err, os.Remove(path), os.WriteFile(path, b, 0o600))
}

func overwrite(path string, at int64, with []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(with, at)
	return errors.Join(err, f.Close())
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err := errors.Join(err, os.WriteFile(to, b, 0o600)); err != nil {
		t.Fatal(err)
	}
}
