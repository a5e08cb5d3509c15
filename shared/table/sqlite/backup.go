package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	sqlite3 "modernc.org/sqlite/lib"
)

// A backup is one file, written by SQLite itself from one moment's view. To put a
// file in the database's place by hand is another matter: a log that a killed
// server left is worked into whatever has the name of its database.

// Backup writes a consistent copy of a data folder's database into a new file, for
// this user's eyes only, beside the owner or alone. It appears under its name when
// it is whole and on the disk. A database that is damaged is not copied, an
// existing file is an fs.ErrExist, and no database an fs.ErrNotExist.
func Backup(ctx context.Context, c Config, to string) error {
	c.Existing = true
	to, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(to); err == nil {
		return exists(to)
	}
	t, err := Beside(c)
	if err != nil {
		return err
	}
	defer t.Close()
	if end, of := strings.CutPrefix(to, t.path); of && slices.Contains(taken, end) {
		return fmt.Errorf("%s is a name that the database itself needs: name another file", to)
	}
	f, err := os.CreateTemp(filepath.Dir(to), ".postern-backup-*")
	if err != nil {
		return fmt.Errorf("writing the backup: %v: name a file in a folder that this user can write to", err) // no ErrNotExist
	}
	defer os.Remove(f.Name())
	if err := errors.Join(copyTo(ctx, t.read, t.path, f), f.Close()); err != nil {
		return err
	}
	if err := alsoAs(f.Name(), to); err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	return syncFolder(filepath.Dir(to))
}

// What Restore makes beside a database, and all that is called after one.
const (
	restoring   = "-restoring"
	interrupted = "-interrupted"
)

var taken = append([]string{restoring, interrupted}, beside...)

func exists(path string) error {
	return fmt.Errorf("%s is there already, and is left as it is: name another file", path)
}

// copyTo writes what the database at the path has into f, which is empty, and
// waits until it is on the disk. It reads all of it before: of a damaged one
// SQLite might copy what it finds.
func copyTo(ctx context.Context, db *sql.DB, path string, f *os.File) error {
	err := whole(ctx, db, "integrity_check")
	if err == nil {
		_, err = db.ExecContext(ctx, "VACUUM INTO ?", f.Name())
	}
	if err == nil {
		err = f.Sync()
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errUnsound), code(err) == sqlite3.SQLITE_CORRUPT, code(err) == sqlite3.SQLITE_NOTADB:
		return damaged(path, err)
	}
	return fmt.Errorf("copying %s to %s: %w", path, f.Name(), err)
}

// Restore puts a backup in the place of a data folder's database. It is the
// folder's owner meanwhile, and makes the folder where there is none. A copy that
// isn't ours or isn't whole is refused, and nothing changed. What was there is kept
// under the name that is returned, "" if nothing was.
//
// Whenever the process or the machine ends, the old database is in place, whole,
// or the new one. Only where the old one can't take in its log, being damaged or on
// a full disk, is there neither for a moment: what stands there then is refused by
// Open, and Restore again mends it.
func Restore(ctx context.Context, c Config, from string) (kept string, err error) {
	return restore(ctx, c, from, func(string) {})
}

// restore is Restore; reached is told of each step that is done.
func restore(ctx context.Context, c Config, from string, reached func(step string)) (kept string, err error) {
	db, err := openCopy(from)
	if err != nil {
		return "", refused(err)
	}
	defer db.Close()
	c.Existing = false
	dir, err := folder(c)
	if err != nil {
		return "", err
	}
	unlock, err := own(dir)
	if err != nil {
		return "", err
	}
	defer unlock()

	r := replacement{path: filepath.Join(dir, fileName), reached: reached}
	if err := checkKinds(r.path); err != nil {
		return "", err
	}
	r.fresh = r.path + restoring
	defer os.Remove(r.fresh)
	if err := r.copy(ctx, db, from); err != nil {
		return "", refused(err)
	}
	reached("copied")
	if err := r.seize(ctx); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.release()) }()
	now := c.Now
	if now == nil {
		now = time.Now
	}
	return r.put(r.path + "-before-restore-" + now().UTC().Format("20060102T150405Z"))
}

// refused is an error about a copy, whose cure is not that of a data folder.
func refused(err error) error {
	if bad, is := errors.AsType[*unfit](err); is {
		return fmt.Errorf("%s %w: nothing was changed; name another backup", bad.path, bad.fault)
	}
	return err
}

// openCopy opens a backup without writing to it, unless there is a log that
// belongs to it: that is worked in, as ever.
func openCopy(path string) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := checkCopy(path); err != nil {
		return nil, err
	}
	query := "mode=ro&immutable=1"
	for _, log := range logs {
		if _, err := os.Stat(path + log); err == nil {
			query = opened
		}
	}
	db, err := sql.Open("sqlite", name(path, query))
	if err != nil {
		return nil, err
	}
	if _, err := db.Exec("SELECT pk, sk, ver, exp, val FROM items LIMIT 0"); err != nil {
		switch code(err) {
		case sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			err = damaged(path, err)
		default:
			err = fmt.Errorf("reading the backup %s: %w", path, err)
		}
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func checkCopy(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the backup: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is a %s, not a file: name a backup", path, kind(info.Mode()))
	case info.Size() == 0:
		return &unfit{path: path, fault: errors.New("is empty")}
	}
	return checkFile(f, info)
}

// replacement is what comes into the place of a database.
type replacement struct {
	path    string
	fresh   string // the new one, whole, beside it
	old     *sql.DB
	holds   *sql.Conn // on old, which nobody else can use meanwhile; nil: nothing to hold
	reached func(step string)
}

func (r *replacement) copy(ctx context.Context, db *sql.DB, from string) error {
	if err := os.Remove(r.fresh); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that was interrupted
		return err
	}
	f, err := os.OpenFile(r.fresh, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(copyTo(ctx, db, from, f), f.Close())
}

// seize has the old database's log worked in and removed by SQLite, and locks it
// against commands that work beside: one that waits can't begin a new log then, and
// finds that its file was moved. What isn't there, isn't ours or is damaged is left
// as it lies.
func (r *replacement) seize(ctx context.Context) error {
	f, err := os.Open(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		err = checkFile(f, info)
	}
	f.Close() // and, as POSIX has it, every lock of this process on it
	if err != nil {
		return nil
	}
	if r.old, err = sql.Open("sqlite", name(r.path, "mode=rw&_pragma=busy_timeout(0)&_pragma=trusted_schema(0)")); err != nil {
		return err
	}
	r.old.SetMaxOpenConns(1)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		conn, err := r.old.Conn(context.Background())
		if err == nil {
			if err = seizeBy(conn); err == nil && !r.has("-wal") { // since nobody began a new one in between
				r.holds = conn
				return nil
			}
			conn.ExecContext(context.Background(), "ROLLBACK")
			conn.Close()
		}
		if err != nil && code(err) != sqlite3.SQLITE_BUSY {
			return r.release() // it is damaged, or the disk full: the log stays its
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), r.release())
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("another program uses %s: end it, and restore then", r.path), r.release())
		}
	}
}

func seizeBy(conn *sql.Conn) error {
	for _, statement := range []string{"PRAGMA journal_mode = DELETE", "BEGIN EXCLUSIVE"} {
		if _, err := conn.ExecContext(context.Background(), statement); err != nil {
			return err
		}
	}
	return nil
}

func (r *replacement) release() error {
	if r.old == nil {
		return nil
	}
	if r.holds != nil {
		r.holds.Close()
	}
	err := r.old.Close()
	r.old, r.holds = nil, nil
	return err
}

// lying are the ends of the names of what makes the old database up: its own and
// its logs'.
func (r *replacement) lying() (ends []string) {
	for _, end := range append([]string{""}, logs...) {
		if r.has(end) {
			ends = append(ends, end)
		}
	}
	return ends
}

func (r *replacement) has(end string) bool {
	_, err := os.Lstat(r.path + end)
	return err == nil
}

// put keeps what was there under another name, and puts the new one in its place
// in one step. If the old one has logs, it first gives way to what is no database:
// without them it would be an older one, and beside them the new one a mixture.
func (r *replacement) put(aside string) (kept string, err error) {
	lying := r.lying()
	for i, end := range lying {
		if err := alsoAs(r.path+end, aside+end); err != nil {
			for _, end := range lying[:i] {
				os.Remove(aside + end)
			}
			return "", fmt.Errorf("keeping what was there: %w", err)
		}
		kept = aside
	}
	dir := filepath.Dir(r.path)
	if err := syncFolder(dir); err != nil {
		return "", err
	}
	r.reached("kept")
	if err := r.clear(aside); err != nil {
		return "", fmt.Errorf("%w; what was there is %s: restore again", err, aside)
	}
	if runtime.GOOS == "windows" { // where an open file keeps its name; others that have it open keep it so
		if err := r.release(); err != nil {
			return "", err
		}
	}
	if err := os.Rename(r.fresh, r.path); err != nil {
		return "", fmt.Errorf("%w; what was there is %s: restore again", err, aside)
	}
	r.reached("restored")
	return kept, syncFolder(dir)
}

// clear removes the old database's logs, if there are any.
func (r *replacement) clear(aside string) error {
	if slices.ContainsFunc(logs, r.has) {
		if err := r.block(aside); err != nil {
			return err
		}
		r.reached("blocked")
	}
	for _, end := range beside {
		if err := os.Remove(r.path + end); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		r.reached("removed " + end)
	}
	return syncFolder(filepath.Dir(r.path))
}

// block puts what Open refuses in the old database's place.
func (r *replacement) block(aside string) error {
	block := r.path + interrupted
	f, err := os.OpenFile(block, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "`postern restore` was interrupted: run it again. What was here is %s.\n", aside)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(block, r.path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(r.path))
}

// alsoAs gives a file a second name, which must be new. Where the file system knows
// no second names, it is a copy.
func alsoAs(path, as string) error {
	err := os.Link(path, as)
	if errors.Is(err, fs.ErrExist) {
		return exists(as)
	}
	if err == nil {
		return nil
	}
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := os.OpenFile(as, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(as))
	}
	return nil
}

// syncFolder waits until a folder's names are on the disk. Windows has no way to.
func syncFolder(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
