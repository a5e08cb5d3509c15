package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Names in the data folder. SQLite puts -wal and -shm beside the database.
const (
	fileName = "postern.db"
	lockName = "postern.lock"
)

// logs are the ends of the names of what SQLite's next connection works into the
// database that it lies beside, whosever it is: the write-ahead log and the
// rollback journal.
var logs = []string{"-wal", "-journal"}

// beside are those of all that SQLite puts there. What it shares in memory is
// nothing without a log.
var beside = append([]string{"-shm"}, logs...)

// What SQLite's header says of our files: https://sqlite.org/fileformat2.html#the_database_header.
const (
	application = 0x504f5354 // "POST"
	version     = 1
	headerSize  = 100
)

// patience is how long others that write are waited for; busy_timeout, too.
const patience = 5 * time.Second

// checkWhole is the largest file that is read through before it is opened.
const checkWhole = 8 << 20

var errOwned = errors.New("locked")

// schema is the file's. An item of version 0 has counters, a JSON object in val.
const schema = `
CREATE TABLE items (
	pk  TEXT    NOT NULL,
	sk  TEXT    NOT NULL,
	ver INTEGER NOT NULL,
	exp INTEGER NOT NULL,
	val BLOB    NOT NULL,
	PRIMARY KEY (pk, sk)
);
CREATE INDEX items_exp ON items (exp) WHERE exp < 9223372036854775807;
`

// own locks a folder for its one owner.
func own(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, lockName)
	unlock, err = lock(path)
	if errors.Is(err, errOwned) {
		return nil, fmt.Errorf("another postern serves the data folder %s: stop that one, or give this one a data folder of its own", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("locking the data folder: %w: it must be a folder that this user can write to, and %s a file in it", err, lockName)
	}
	return unlock, nil
}

// checkFolder refuses a folder that others may write to: whoever may can put
// another database, and so other keys, in the place of ours.
func checkFolder(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("opening the data folder: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o022 != 0 { // whose modes say nothing of others
		return fmt.Errorf("others may write to the data folder %s, and so put keys of their own there: chmod 700 %[1]s", dir)
	}
	return nil
}

// inPlace looks whether the file at the path is still the one that was opened. If
// not, that is told once, and known from then on. It takes 1 or 2 µs.
func (t *Table) inPlace() error {
	if err := t.known(); err != nil {
		return err
	}
	info, err := os.Stat(t.path)
	if err == nil && os.SameFile(info, t.file) {
		return nil
	}
	if err == nil {
		err = errors.New("there is another file")
	}
	err = fmt.Errorf("%s was moved, deleted or replaced while it was in use (%w): nothing is read or written any more: put the right one there, and start anew", t.path, err)
	if t.lost.CompareAndSwap(nil, &err) {
		t.tell(err)
	}
	return t.known()
}

// known is what inPlace has found.
func (t *Table) known() error {
	if err := t.lost.Load(); err != nil {
		return *err
	}
	return nil
}

// check looks at a file before SQLite does, and writes nothing to one that is
// there. Where there is none, create, which is os.O_CREATE or 0, says whether it
// makes one of no bytes.
func check(path string, create int) (fs.FileInfo, error) {
	if err := checkKinds(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if there(path + restoring) { // looked for after the database, which moves away before that takes its place
			return nil, &unfit{path, errors.New("is missing, since a restore was interrupted"), "run `postern restore` again"}
		}
		f, err = os.OpenFile(path, os.O_RDWR|create, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w: this user must be able to write to it and to its folder", err)
	}
	defer f.Close()
	if err := checkQuiet(f); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = f.Chmod(0o600)
	}
	return info, err
}

// checkKinds refuses what is no file where a database, or something of SQLite's
// beside it, is to be.
func checkKinds(path string) error {
	for _, end := range append([]string{""}, beside...) {
		info, err := os.Lstat(path + end)
		if err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("%s is a %s, not a file: move it away", path+end, kind(info.Mode()))
		}
	}
	return nil
}

// checkQuiet checks a file while nobody writes to it: of one that a process beside
// is making or writing to, a verdict says nothing.
func checkQuiet(f *os.File) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		before, err := f.Stat()
		if err != nil {
			return err
		}
		verdict := checkFile(f, before)
		if verdict == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond) // more than a file system's clock takes to tick
		after, err := f.Stat()
		if err != nil {
			return err
		}
		if after.ModTime().Equal(before.ModTime()) && after.Size() == before.Size() || time.Now().After(deadline) {
			return verdict
		}
	}
}

func checkFile(f *os.File, info fs.FileInfo) error {
	if info.Size() == 0 {
		return nil
	}
	header := make([]byte, headerSize)
	if n, err := f.ReadAt(header, 0); err != nil && err != io.EOF {
		return err
	} else if err := checkHeader(f.Name(), header[:n]); err != nil {
		return err
	}
	return checkPages(f.Name(), header, info.Size())
}

func kind(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeSymlink != 0:
		return "symbolic link"
	case mode.IsDir():
		return "folder"
	}
	return "special file"
}

func checkHeader(path string, header []byte) error {
	if len(header) < headerSize || !bytes.HasPrefix(header, []byte("SQLite format 3\x00")) {
		return &unfit{path, errors.New("is no database, or is damaged"), anew}
	}
	if id := binary.BigEndian.Uint32(header[68:]); id != application {
		return &unfit{path, fmt.Errorf("is another application's database (application id %#x)", id), "choose another data folder, or move it away"}
	}
	if v := binary.BigEndian.Uint32(header[60:]); v != version {
		return &unfit{path, fmt.Errorf("is of version %d, and this postern knows version %d", v, version), "run the postern that wrote it, or choose another data folder"}
	}
	return nil
}

// checkPages looks for missing and damaged pages. Beside a log, which a running
// server has and a killed one leaves, the file alone says nothing.
func checkPages(path string, header []byte, size int64) error {
	for _, log := range logs {
		if info, err := os.Stat(path + log); err == nil && info.Size() > 0 {
			return nil
		}
	}
	page := int64(binary.BigEndian.Uint16(header[16:]))
	if page == 1 {
		page = 1 << 16
	}
	if size < page*int64(binary.BigEndian.Uint32(header[28:])) {
		return damaged(path, errors.New("its end is missing"))
	}
	if size > checkWhole {
		return nil
	}
	db, err := sql.Open("sqlite", name(path, "mode=ro&immutable=1"))
	if err != nil {
		return err
	}
	defer db.Close()
	if err := whole(context.Background(), db, "quick_check"); err != nil {
		return damaged(path, err)
	}
	return nil
}

var errUnsound = errors.New("SQLite's integrity check fails")

// whole has SQLite check a database by one of its pragmas: integrity_check, or
// quick_check, which leaves the indexes out.
func whole(ctx context.Context, db *sql.DB, pragma string) error {
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA "+pragma+"(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return fmt.Errorf("%w: %s", errUnsound, strings.TrimSpace(verdict))
	}
	return nil
}

func damaged(path string, err error) error {
	return &unfit{path, fmt.Errorf("is damaged: %w", err), anew}
}

// unfit is a file that is no database of ours, or not whole, and what to do where
// it is the data folder's.
type unfit struct {
	path  string
	fault error
	cure  string
}

const anew = "move it away to begin anew, or restore it from a backup"

func (u *unfit) Error() string { return fmt.Sprintf("%s %v: %s", u.path, u.fault, u.cure) }
func (u *unfit) Unwrap() error { return u.fault }

// create makes the database in a file of no bytes. The first to come does, and
// the others find it done.
func create(db *sql.DB) error {
	const ask = "PRAGMA user_version"
	var v int
	if err := db.QueryRow(ask).Scan(&v); err != nil || v == version {
		return err
	}
	tx, err := db.Begin() // with the lock, see connect
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := tx.QueryRow(ask).Scan(&v); err != nil || v == version {
		return err
	}
	if _, err := tx.Exec(schema + fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", application, version)); err != nil {
		return err
	}
	return tx.Commit()
}

// logAhead turns the write-ahead log on. It waits itself: where several come at
// once, each holds a lock that another waits for, and SQLite then says that it is
// busy and doesn't wait (https://sqlite.org/c3ref/busy_handler.html).
func logAhead(db *sql.DB) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		var mode string
		err := db.QueryRow("PRAGMA journal_mode = WAL").Scan(&mode)
		if code(err) == sqlite3.SQLITE_BUSY && time.Now().Before(deadline) {
			continue
		}
		if err == nil && mode != "wal" {
			return errors.New("its folder can't hold a write-ahead log: choose a data folder on a local disk")
		}
		return err
	}
}

// How a connection is opened. Reading, a larger cache is a slower one: its pages
// push each other out of the processor's.
const (
	opened  = "mode=rw&_pragma=busy_timeout(5000)&_pragma=trusted_schema(0)&_dqs=0"
	reading = opened + "&_pragma=cache_size(-2000)"
	writing = opened + "&_pragma=cache_size(-8000)&_pragma=synchronous(FULL)&_pragma=secure_delete(1)&_txlock=immediate" // what is deleted is overwritten
)

// connect opens a database, and makes it where there is none. The header is
// written before the write-ahead log comes to be, so that check finds it.
func (t *Table) connect() error {
	var err error
	if t.write, err = sql.Open("sqlite", name(t.path, writing)); err != nil {
		return err
	}
	t.write.SetMaxOpenConns(1)
	if err := create(t.write); err != nil {
		return err
	}
	if err := logAhead(t.write); err != nil {
		return err
	}
	if t.read, err = sql.Open("sqlite", name(t.path, reading)); err != nil {
		return err
	}
	t.read.SetMaxOpenConns(readers)
	t.read.SetMaxIdleConns(readers)
	for query, at := range map[string]struct {
		db   *sql.DB
		stmt **sql.Stmt
	}{
		listItems:    {t.read, &t.list},
		listBack:     {t.read, &t.listBack},
		insertItem:   {t.write, &t.insert},
		updateItem:   {t.write, &t.update},
		deleteItem:   {t.write, &t.remove},
		saveCounters: {t.write, &t.save},
		deleteOld:    {t.write, &t.sweep},
	} {
		if *at.stmt, err = at.db.Prepare(query); err != nil {
			return err
		}
	}
	return nil
}

// readers is how many read at once.
const readers = 4

// name is how SQLite is told of a file.
func name(path, query string) string {
	path = "/" + strings.TrimPrefix(filepath.ToSlash(path), "/") // Windows' begin with a drive
	return (&url.URL{Scheme: "file", Path: path, RawQuery: query}).String()
}

// explain says of SQLite's errors which file they are about, and what to do
// where that can be known.
func (t *Table) explain(err error) error {
	switch code(err) {
	case sqlite3.SQLITE_OK:
		return err
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return damaged(t.path, err)
	case sqlite3.SQLITE_FULL:
		return full(t.path, err)
	case sqlite3.SQLITE_IOERR:
		if left, e := t.free(filepath.Dir(t.path)); e == nil && left < smallChange { // its own log can't be opened then
			return full(t.path, err)
		}
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		if e, _ := errors.AsType[*driver.Error](err); e.Code() == sqlite3.SQLITE_READONLY_DBMOVED {
			return fmt.Errorf("%s was moved or replaced meanwhile: run it again", t.path)
		}
		return fmt.Errorf("writing %s: this user must be able to write to it and to its folder: %w", t.path, err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fmt.Errorf("writing %s: another process has kept it busy for too long: %w", t.path, err)
	}
	return fmt.Errorf("using %s: %w", t.path, err)
}

func full(path string, err error) error {
	return fmt.Errorf("writing %s: the disk is full: make room: %w", path, err)
}

// code is SQLite's primary result code of an error, SQLITE_OK of one that isn't its.
func code(err error) int {
	var e *driver.Error
	if !errors.As(err, &e) {
		return sqlite3.SQLITE_OK
	}
	return e.Code() & 0xff
}
