package sqlite

import (
	"cmp"
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
// it is whole and on the disk. A database that is damaged is not copied,
// nor over a file that exists, nor beside a log; no database is an fs.ErrNotExist.
func Backup(ctx context.Context, c Config, to string) error {
	c.Existing = true
	to, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	for _, end := range append([]string{""}, beside...) { // a log of another's would be worked into it
		if there(to + end) {
			return exists(to + end)
		}
	}
	t, err := Beside(c)
	if err != nil {
		return err
	}
	defer t.Close()
	if end, of := strings.CutPrefix(to, t.path); of && slices.Contains(taken, end) {
		return fmt.Errorf("%s is a name that the database itself needs: name another file", to)
	}
	return copyNew(ctx, t.read, t.path, to, alsoAs)
}

// restoring is the end of the name that a restored database has before it takes
// the place of one that is none.
const restoring = "-restoring"

var taken = append([]string{restoring}, beside...)

func exists(path string) error {
	return fmt.Errorf("%s is there already, and is left as it is: name another file", path)
}

// copyNew writes what the database at the path has into a new file, which appears
// under its name, which put gives it, when it is whole and on the disk.
func copyNew(ctx context.Context, db *sql.DB, path, to string, put func(path, as string) error) error {
	f, err := os.CreateTemp(filepath.Dir(to), ".postern-backup-*")
	if err != nil {
		return fmt.Errorf("writing the backup: %v: name a file in a folder that this user can write to", err) // no ErrNotExist
	}
	defer os.Remove(f.Name())
	if err := errors.Join(copyTo(ctx, db, path, f), f.Close()); err != nil {
		return err
	}
	if err := put(f.Name(), to); err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	return syncFolder(filepath.Dir(to))
}

// copyTo writes what the database at the path has into f, which is empty, and
// waits until it is on the disk. It reads all of it before: of a damaged one
// SQLite might copy what it finds.
func copyTo(ctx context.Context, db *sql.DB, path string, f *os.File) error {
	if err := sound(ctx, db, path); err != nil {
		return err
	}
	_, err := db.ExecContext(ctx, "VACUUM INTO ?", f.Name())
	if err == nil {
		err = f.Sync()
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case code(err) == sqlite3.SQLITE_FULL:
		return full(f.Name(), err)
	case code(err) == sqlite3.SQLITE_CORRUPT:
		return damaged(path, err)
	}
	return fmt.Errorf("copying %s to %s: %w", path, f.Name(), err)
}

// sound reads all that a database has.
func sound(ctx context.Context, db *sql.DB, path string) error {
	err := whole(ctx, db, "integrity_check")
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errUnsound), code(err) == sqlite3.SQLITE_CORRUPT, code(err) == sqlite3.SQLITE_NOTADB:
		return damaged(path, err)
	}
	return fmt.Errorf("reading %s: %w", path, err)
}

// Restore puts a backup in the place of a data folder's database. It is the
// folder's owner meanwhile, and makes the folder where there is none. A copy that
// isn't ours or isn't whole is refused, and nothing changed. What was there is kept
// under the name that is returned, "" if there was no item.
//
// It is one transaction of the old database: whenever the process or the machine
// ends, what is there is the old one or the new, and commands beside come before
// or after. Only a database that Open refuses, or that is damaged inside, is moved
// away instead; if that is interrupted, Open refuses the folder, and Restore again
// mends it.
func Restore(ctx context.Context, c Config, from string) (kept string, err error) {
	return restore(ctx, c, from, func(string) {})
}

// restore is Restore; reached is told of each step that is done.
func restore(ctx context.Context, c Config, from string, reached func(step string)) (kept string, err error) {
	db, uri, err := openCopy(from)
	if err != nil {
		return "", refused(err)
	}
	defer db.Close()
	if err := sound(ctx, db, from); err != nil {
		return "", refused(err)
	}
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
	path := filepath.Join(dir, fileName)
	if same(from, path) {
		return "", fmt.Errorf("%s is the data folder's own database: name a backup", from)
	}
	if err := checkKinds(path); err != nil {
		return "", err
	}
	now := c.Now
	if now == nil {
		now = time.Now
	}
	aside := path + "-before-restore-" + now().UTC().Format("20060102T150405.000Z")
	if !orphaned(path) {
		kept, err = within(ctx, c, dir, uri, aside, reached)
		if !unusable(err) {
			return kept, err
		}
	}
	return instead(ctx, db, from, path, aside, reached)
}

// within makes the items of the database at uri those of the folder's.
func within(ctx context.Context, c Config, dir, uri, aside string, reached func(step string)) (kept string, err error) {
	t, err := open(c, dir)
	if err != nil {
		return "", err
	}
	kept, err = t.become(ctx, uri, aside, reached)
	if err != nil && kept != "" {
		os.Remove(kept) // nothing was changed
	}
	if err != nil {
		return "", errors.Join(cmp.Or(ctx.Err(), err), t.disconnect())
	}
	return kept, t.disconnect() // which empties the log
}

// become is one transaction. The old items are copied aside in it: no command comes
// in between, to be in neither.
func (t *Table) become(ctx context.Context, uri, aside string, reached func(step string)) (kept string, err error) {
	conn, err := t.write.Conn(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "ATTACH ? AS copy", uri); err != nil {
		return "", t.explain(err)
	}
	tx, err := conn.BeginTx(ctx, nil) // waits for who writes
	if err != nil {
		return "", t.explain(err)
	}
	defer tx.Rollback()
	var some bool
	if err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM main.items)").Scan(&some); err != nil {
		return "", t.explain(err)
	}
	if some {
		if err := copyNew(ctx, t.read, t.path, aside, alsoAs); err != nil {
			return "", fmt.Errorf("keeping what was there: %w", err)
		}
		kept = aside
	}
	reached("kept")
	if _, err := tx.ExecContext(ctx, `DELETE FROM main.items;
		INSERT INTO main.items (pk, sk, ver, exp, val) SELECT pk, sk, ver, exp, val FROM copy.items`); err != nil {
		return kept, t.explain(err)
	}
	reached("filled")
	if err := tx.Commit(); err != nil {
		return kept, t.explain(err)
	}
	reached("restored")
	return kept, nil
}

// unusable says that SQLite can't work in the old database: it is none of ours, or
// damaged, or lacks our table.
func unusable(err error) bool {
	_, is := errors.AsType[*unfit](err)
	return is || code(err) == sqlite3.SQLITE_ERROR
}

// orphaned says that logs lie there without a database, to be moved away with
// nothing: SQLite would delete them.
func orphaned(path string) bool {
	if info, err := os.Stat(path); err == nil && info.Size() > 0 {
		return false
	}
	return slices.ContainsFunc(beside, func(end string) bool { return there(path + end) })
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func same(path, other string) bool {
	a, err := os.Stat(path)
	b, e := os.Stat(other)
	return err == nil && e == nil && os.SameFile(a, b)
}

// instead moves what is at the path away, and puts a copy of db there. In between,
// check refuses the folder for the name that the copy has until then.
func instead(ctx context.Context, db *sql.DB, from, path, aside string, reached func(step string)) (kept string, err error) {
	dir, fresh := filepath.Dir(path), path+restoring
	ends := append([]string{""}, beside...)
	for _, end := range ends {
		if there(aside + end) {
			return "", fmt.Errorf("keeping what was there: %w", exists(aside+end))
		}
	}
	if err := copyNew(ctx, db, from, fresh, os.Rename); err != nil {
		return "", refused(err)
	}
	reached("copied") // in the place of one that was interrupted, without which Open would begin an empty one
	for _, end := range ends {
		err := os.Rename(path+end, aside+end)
		if err == nil {
			kept = aside
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%w: restore again; what was there is %s, or still in its place", err, aside)
		}
		reached("moved " + end)
	}
	if err := errors.Join(syncFolder(dir), os.Rename(fresh, path), syncFolder(dir)); err != nil {
		return "", fmt.Errorf("%w: restore again; what was there is %s", err, aside)
	}
	reached("restored")
	return kept, nil
}

// refused is an error about a copy, whose cure is not that of a data folder.
func refused(err error) error {
	if bad, is := errors.AsType[*unfit](err); is {
		return fmt.Errorf("%s %w: nothing was changed; name another backup", bad.path, bad.fault)
	}
	return err
}

// openCopy opens a backup, to which nothing is ever written. While it is open,
// others can read it at uri.
func openCopy(path string) (db *sql.DB, uri string, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return nil, "", err
	}
	if err := checkCopy(path); err != nil {
		return nil, "", err
	}
	for _, log := range logs {
		if there(path + log) {
			return nil, "", fmt.Errorf("%s lies beside the backup, and nobody can tell whether it belongs to it: move it away; or, if the two are a copy of a data folder's files, put them into a folder as %s and %[2]s%s, and name what `postern backup --data` makes of that", path+log, fileName, log)
		}
	}
	uri = name(path, "mode=ro&immutable=1")
	if db, err = sql.Open("sqlite", uri); err != nil {
		return nil, "", err
	}
	if _, err := db.Exec("SELECT pk, sk, ver, exp, val FROM items LIMIT 0"); err != nil {
		switch code(err) {
		case sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			err = damaged(path, err)
		default:
			err = fmt.Errorf("reading the backup %s: %w", path, err)
		}
		return nil, "", errors.Join(err, db.Close())
	}
	return db, uri, nil
}

func checkCopy(path string) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() { // a pipe would be waited for
		return fmt.Errorf("%s is a %s, not a file: name a backup", path, kind(info.Mode()))
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the backup: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.Size() == 0:
		return &unfit{path: path, fault: errors.New("is empty")}
	}
	return checkFile(f, info)
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
