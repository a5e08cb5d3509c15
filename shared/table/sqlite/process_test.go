//go:build unix

package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/shared/table"
	"postern/shared/table/sqlite"
)

// parts are what a child process plays: this binary, started with the part's name
// and a folder. A part says a line when it is ready, and ends with its input.
var parts = map[string]func(c sqlite.Config, in *bufio.Reader) error{
	"owner": func(c sqlite.Config, in *bufio.Reader) error {
		s, err := sqlite.Open(c)
		if err != nil {
			return err
		}
		fmt.Println("ready")
		in.ReadString('\n')
		return s.Close()
	},
	"command": func(c sqlite.Config, _ *bufio.Reader) error {
		s, err := sqlite.Beside(c)
		if err != nil {
			return err
		}
		k := "from the command"
		if len(os.Args) > 2 {
			k = os.Args[2]
		}
		_, err = s.Put(context.Background(), key(k), []byte("one"), 0, never)
		return errors.Join(err, s.Close())
	},
	"writers": func(c sqlite.Config, _ *bufio.Reader) error {
		s, err := sqlite.Open(c)
		if err != nil {
			return err
		}
		var says sync.Mutex
		for i := range 4 {
			go func() {
				for n := 0; ; n++ {
					k := fmt.Sprintf("%d-%d", i, n)
					if _, err := s.Put(context.Background(), key(k), []byte(strings.Repeat(k, 500)), 0, never); err != nil {
						return
					}
					says.Lock()
					fmt.Println(k) // acknowledged
					says.Unlock()
				}
			}()
		}
		select {}
	},
	"counter": func(c sqlite.Config, in *bufio.Reader) error {
		s, err := sqlite.Open(c)
		if err != nil {
			return err
		}
		deltas := []table.Delta{{Counter: "n", By: 5}}
		if _, _, err := s.Add(context.Background(), key("a"), deltas, table.NoMax, never); err != nil {
			return err
		}
		if err := sqlite.Flush(s); err != nil {
			return err
		}
		if _, _, err := s.Add(context.Background(), key("a"), deltas, table.NoMax, never); err != nil {
			return err
		}
		fmt.Println("ready")
		in.ReadString('\n')
		return nil
	},
	"later": func(c sqlite.Config, in *bufio.Reader) error { // than a backup
		s, err := sqlite.Open(c)
		if err != nil {
			return err
		}
		_, err = s.Put(context.Background(), key("a"), []byte("later"), 1, never)
		for i := range 20 {
			_, e := s.Put(context.Background(), key(fmt.Sprint("later ", i)), []byte(strings.Repeat("x", 5000)), 0, never)
			err = errors.Join(err, e)
		}
		if err != nil {
			return err
		}
		fmt.Println("ready")
		in.ReadString('\n')
		return s.Close()
	},
	"restore until": func(c sqlite.Config, _ *bufio.Reader) error {
		_, err := sqlite.RestoreTelling(context.Background(), c, os.Args[2], func(step string) {
			if step == os.Args[3] {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		})
		return err
	},
	"restore, full from": func(c sqlite.Config, _ *bufio.Reader) error {
		full := func(step string) {
			if step == os.Args[3] {
				signal.Ignore(syscall.SIGXFSZ)
				syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 8 << 10, Max: 8 << 10})
			}
		}
		full("the start")
		_, err := sqlite.RestoreTelling(context.Background(), c, os.Args[2], full)
		return err
	},
	"commands": func(c sqlite.Config, _ *bufio.Reader) error {
		for n := 0; ; n++ {
			s, err := sqlite.Beside(c)
			if err != nil {
				return err
			}
			if _, err := s.Put(context.Background(), key(fmt.Sprint("command ", n)), []byte("one"), 0, never); err != nil {
				return err
			}
			fmt.Println("command", n) // acknowledged
			if err := s.Close(); err != nil {
				return err
			}
		}
	},
	"holder": func(c sqlite.Config, in *bufio.Reader) error {
		s, err := sqlite.Beside(c)
		if err != nil {
			return err
		}
		if err := sqlite.Exec(s, "BEGIN IMMEDIATE"); err != nil {
			return err
		}
		fmt.Println("ready")
		in.ReadString('\n')
		return errors.Join(sqlite.Exec(s, "COMMIT"), s.Close())
	},
}

const (
	partEnv = "POSTERN_TEST_PART"
	nobody  = 65534
)

func TestMain(m *testing.M) {
	part, unprivileged := strings.CutPrefix(os.Getenv(partEnv), "nobody's ")
	play := parts[part]
	if play == nil {
		os.Exit(m.Run())
	}
	if unprivileged && os.Geteuid() == 0 { // whom no permission stops
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	if err := play(sqlite.Config{Dir: os.Args[1]}, bufio.NewReader(os.Stdin)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// child is a part that plays until the test's end at the latest.
type child struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func start(t *testing.T, part, dir string, more ...string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{Cmd: exec.Command(self, append([]string{dir}, more...)...)}
	c.Env = append(os.Environ(), partEnv+"="+part)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.in, c.out = in, bufio.NewScanner(out)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.kill() })
	return c
}

// line is the next that c says, "" after its last.
func (c *child) line() string {
	c.out.Scan()
	return c.out.Text()
}

// kill is kill -9.
func (c *child) kill() {
	c.Process.Kill()
	c.Wait()
}

// TestKillLosesNothingAcknowledged is P17: a server that is killed in the middle
// of writes has every item that it said was written.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	dir := newFolder(t)
	acknowledged := map[string]bool{}
	for round := range 3 {
		writers := start(t, "writers", dir)
		for range 60 {
			if k := writers.line(); k != "" {
				acknowledged[fmt.Sprint(round, " ", k)] = true
			}
		}
		writers.Process.Kill()
		for k := writers.line(); k != ""; k = writers.line() { // said before it died
			acknowledged[fmt.Sprint(round, " ", k)] = true
		}
		writers.kill()
		if len(acknowledged) < 60 {
			t.Fatalf("%d are acknowledged", len(acknowledged))
		}

		s, err := sqlite.Open(sqlite.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		for k := range acknowledged {
			_, k, _ = strings.Cut(k, " ")
			item, err := s.Get(t.Context(), key(k))
			if err != nil || string(item.Value) != strings.Repeat(k, 500) {
				t.Errorf("round %d: %q was acknowledged: %d bytes, error %v", round, k, len(item.Value), err)
			}
			if err := s.Delete(t.Context(), key(k), 1); err != nil {
				t.Errorf("round %d: delete of %q: %v", round, k, err)
			}
		}
		items, err := s.List(t.Context(), "p", table.Query{Limit: table.MaxList})
		if err != nil || len(items) > 4 {
			t.Errorf("round %d: %d items were never acknowledged, error %v", round, len(items), err)
		}
		for _, item := range items {
			if err := s.Delete(t.Context(), item.Key, 1); err != nil {
				t.Error(err)
			}
		}
		clear(acknowledged)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKillLosesAtMostASecondOfCounters.
func TestKillLosesAtMostASecondOfCounters(t *testing.T) {
	t.Parallel()
	dir := newFolder(t)
	c := start(t, "counter", dir)
	if said := c.line(); said != "ready" {
		t.Fatal(said)
	}
	c.kill()
	if n := count(t, open(t, sqlite.Config{Dir: dir}), "a"); n != 5 && n != 10 {
		t.Errorf("it stands at %d", n)
	}
}

// TestKillLeavesALogThatMendsTheFile: a page that was half written when the
// server was killed stands whole in the log, and the file isn't called damaged.
func TestKillLeavesALogThatMendsTheFile(t *testing.T) {
	t.Parallel()
	dir := newFolder(t)
	c := start(t, "counter", dir)
	if said := c.line(); said != "ready" {
		t.Fatal(said)
	}
	c.kill()
	f, err := os.OpenFile(filepath.Join(dir, "postern.db"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 4096), 4096); err != nil { // the items' page
		t.Fatal(err)
	}
	if n := count(t, open(t, sqlite.Config{Dir: dir}), "a"); n < 5 {
		t.Errorf("it stands at %d", n)
	}
}

// TestOneOwner: a second server is told what to do, and is let in once the first
// is gone in whatever way.
func TestOneOwner(t *testing.T) {
	t.Parallel()
	dir := newFolder(t)
	first := start(t, "owner", dir)
	if said := first.line(); said != "ready" {
		t.Fatal(said)
	}
	want := "another postern serves the data folder " + dir + ": stop that one, or give this one a data folder of its own"
	if s, err := sqlite.Open(sqlite.Config{Dir: dir}); err == nil || err.Error() != want {
		t.Errorf("a second owner: %v, error %v", s, err)
	}
	if said := start(t, "owner", dir).line(); said != want {
		t.Errorf("a third owner: %q", said)
	}
	first.kill()
	s := open(t, sqlite.Config{Dir: dir})
	put(t, s, "a", "one")
	if said := start(t, "owner", dir).line(); said != want {
		t.Errorf("beside the second: %q", said)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if said := start(t, "owner", dir).line(); said != "ready" {
		t.Errorf("after the second: %q", said)
	}
}

// TestACommandIsSeenAtOnce by the server that it works beside, and the other way
// around; it works alone, too.
func TestACommandIsSeenAtOnce(t *testing.T) {
	t.Parallel()
	for _, alone := range []bool{false, true} {
		dir := newFolder(t)
		var s *sqlite.Table
		if !alone {
			s = open(t, sqlite.Config{Dir: dir})
			if _, err := s.Get(t.Context(), key("from the command")); !errors.Is(err, table.ErrNotFound) {
				t.Fatal(err)
			}
		}
		if said := start(t, "command", dir).line(); said != "" {
			t.Fatal(said)
		}
		if alone {
			s = open(t, sqlite.Config{Dir: dir})
		}
		if item, err := s.Get(t.Context(), key("from the command")); string(item.Value) != "one" || err != nil {
			t.Errorf("alone %t: %q, error %v", alone, item.Value, err)
		}
		if said := start(t, "command", dir).line(); said != table.ErrConflict.Error() {
			t.Errorf("alone %t: again: %q", alone, said)
		}
	}
}

// TestManyOpenOneFolder at once, when there is nothing yet: one makes the
// database, and the others neither fail nor call it damaged.
func TestManyOpenOneFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(newFolder(t), "data", "postern")
	var commands []*child
	for i := range 8 {
		commands = append(commands, start(t, "command", dir, fmt.Sprint(i)))
	}
	for _, c := range commands {
		if said := c.line(); said != "" {
			t.Error(said)
		}
	}
	items, err := open(t, sqlite.Config{Dir: dir}).List(t.Context(), "p", table.Query{Limit: 100})
	if len(items) != 8 || err != nil {
		t.Errorf("%d items, error %v", len(items), err)
	}
}

// TestClosingOneTableLeavesTheOthersLocks: POSIX drops a process's locks with
// each file that it closes. The command must not take itself for the last then,
// and the log away.
func TestClosingOneTableLeavesTheOthersLocks(t *testing.T) {
	t.Parallel()
	c := sqlite.Config{Dir: newFolder(t)}
	s := open(t, c)
	put(t, s, "a", "one")
	if err := beside(t, c).Close(); err != nil {
		t.Fatal(err)
	}
	if said := start(t, "command", c.Dir).line(); said != "" {
		t.Fatal(said)
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "postern.db-wal")); err != nil {
		t.Error(err)
	}
}

// TestWritersWait for one that holds a transaction, and readers don't.
func TestWritersWait(t *testing.T) {
	t.Parallel()
	dir := newFolder(t)
	s := open(t, sqlite.Config{Dir: dir})
	put(t, s, "a", "one")
	holder := start(t, "holder", dir)
	if said := holder.line(); said != "ready" {
		t.Fatal(said)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.Put(t.Context(), key("a"), []byte("two"), 1, never)
		done <- err
	}()
	if item, err := s.Get(t.Context(), key("a")); string(item.Value) != "one" || err != nil {
		t.Errorf("%q, error %v", item.Value, err)
	}
	add(t, s, "n", 1, 1)
	select {
	case err := <-done:
		t.Fatalf("a writer doesn't wait: error %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	holder.in.Close()
	if err := <-done; err != nil {
		t.Errorf("a writer that waited: %v", err)
	}
	if item, err := s.Get(t.Context(), key("a")); string(item.Value) != "two" || err != nil {
		t.Errorf("%q, error %v", item.Value, err)
	}
}

// TestAFolderWithoutWriting is refused in words.
func TestAFolderWithoutWriting(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name      string
		dir, file os.FileMode
		part      string
		says      string
	}{
		{"a folder that can't be written to", 0o500, 0o600, "command", "this user must be able to write to it and to its folder"},
		{"nor locked", 0o500, 0o600, "owner", "it must be a folder that this user can write to"},
		{"a folder that can't be entered", 0o000, 0o600, "command", "permission denied: this user must be able to write to it and to its folder"},
		{"a database that can only be read", 0o700, 0o400, "owner", "permission denied: this user must be able to write to it and to its folder"},
	} {
		dir := newFolder(t)
		path := filepath.Join(dir, "postern.db")
		if err := open(t, sqlite.Config{Dir: dir}).Close(); err != nil {
			t.Fatal(err)
		}
		err := errors.Join(os.Remove(filepath.Join(dir, "postern.lock")), os.Chmod(path, row.file), os.Chmod(dir, row.dir))
		t.Cleanup(func() { os.Chmod(dir, 0o700) })
		if os.Geteuid() == 0 {
			err = errors.Join(err, os.Chown(path, nobody, nobody), os.Chown(dir, nobody, nobody), os.Chmod(filepath.Dir(dir), 0o755))
		}
		if err != nil {
			t.Fatal(err)
		}
		if said := start(t, "nobody's "+row.part, dir).line(); !strings.Contains(said, row.says) || !strings.Contains(said, dir) {
			t.Errorf("%s: %q", row.name, said)
		}
	}
}
