package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"postern/shared/auth"
	"postern/shared/keys"
	"postern/shared/secret"
	"postern/shared/table/sqlite"
)

const (
	few, many = 10, 1_000_000
	sample    = 50_000 // of the keys there are, for cold look-ups
	turns     = 9
	lookups   = 5_000 // of one turn
)

// million compares verification in a data folder of few keys and of many: whole
// requests with one key, whose record is cached, and look-ups of a different key
// each time, none of which is.
func (v *verdicts) million(ctx context.Context, dir string) error {
	var folders []*folder
	begin := time.Now()
	for _, n := range []int{few, many} {
		f, err := fill(ctx, filepath.Join(dir, fmt.Sprint(n)), n)
		if err != nil {
			return err
		}
		folders = append(folders, f)
	}
	fmt.Printf("%d and %d issued keys, made in %.0f s, medians\n", few, many, time.Since(begin).Seconds())

	cold, err := inTurns(ctx, turns, len(folders), func(i int) (float64, error) { return folders[i].lookUp() })
	if err != nil {
		return err
	}
	for i, n := range []int{few, many} {
		v.judge(fmt.Sprintf("cold, of %d", n), "%8.1f µs", median(cold[i]), "≤", 25)
	}

	name, generate := generator()
	var urls []string
	for _, f := range folders {
		s, err := postern(dir, f.data)
		if err != nil {
			return err
		}
		defer s.stop()
		if _, err := answer(http.DefaultClient, request(http.MethodGet, s.url+"/agents", f.tokens[0], "")); err != nil {
			return err
		}
		urls = append(urls, s.url+"/agents")
	}
	rates, err := inTurns(ctx, loads, len(folders), func(i int) (float64, error) { return generate(urls[i], folders[i].tokens[0]) })
	if err != nil {
		return err
	}
	fmt.Printf("GET /agents with one of them, load from %s, %d connections, %d × %v in turns, medians\n", name, connections, loads, load)
	show(fmt.Sprintf("of %d", few), "%8.0f requests/s", rates[0])
	show(fmt.Sprintf("of %d", many), "%8.0f requests/s", rates[1])
	v.judge("time of many to few", "%8.2f", ratio(rates[0], rates[1]), "≤", 1.2)
	return nil
}

// folder is a data folder with keys in it.
type folder struct {
	data   string
	tokens []string // a sample of the keys', in random order
	next   int
}

// fill makes a data folder with n keys. One is issued; the others are its record
// under ids and digests of their own, put beside it by SQL in one transaction,
// since a million acts of an administrator would take an hour.
func fill(ctx context.Context, data string, n int) (*folder, error) {
	token, err := keyIn(data)
	if err != nil {
		return nil, err
	}
	tokens := []string{token}
	for range n - 1 {
		_, made := keys.New()
		tokens = append(tokens, made.Reveal())
	}
	rand.Shuffle(n, func(i, j int) { tokens[i], tokens[j] = tokens[j], tokens[i] })
	f := &folder{data: data, tokens: slices.Clone(tokens[:min(n, sample)])}
	slices.Sort(tokens) // in the order of the file
	return f, copies(ctx, data, token, tokens)
}

// copies writes the record of one token for all the others. It is in the file
// as package keys and table/sqlite put it there.
func copies(ctx context.Context, data, one string, tokens []string) error {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(data, "postern.db")+"?_pragma=synchronous(OFF)&_pragma=journal_mode(MEMORY)")
	if err != nil {
		return err
	}
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	id, digest := idAndDigest(one)
	var pk string
	var version, expires int64
	var record []byte
	if err := tx.QueryRow("SELECT pk, ver, exp, val FROM items WHERE sk = ?", id).Scan(&pk, &version, &expires, &record); err != nil {
		return err
	}
	partition := strings.TrimSuffix(pk, id[:1])
	insert, err := tx.Prepare("INSERT INTO items (pk, sk, ver, exp, val) VALUES (?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	for _, token := range tokens {
		if token == one {
			continue
		}
		otherID, otherDigest := idAndDigest(token)
		value := bytes.Replace(record, []byte(id), []byte(otherID), 1)
		value = bytes.Replace(value, []byte(digest), []byte(otherDigest), 1)
		if _, err := insert.Exec(partition+otherID[:1], otherID, version, expires, value); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func idAndDigest(token string) (id, digest string) {
	id, _ = keys.Parse(token)
	return id, secret.DigestOf(token).Reveal()
}

// lookUp is the median of many verifications, in microseconds, each of the next
// key of the sample, with the clock so much later that nothing is cached.
func (f *folder) lookUp() (float64, error) {
	t, err := sqlite.Beside(sqlite.Config{Dir: f.data})
	if err != nil {
		return 0, err
	}
	defer t.Close()
	now := time.Now()
	verifier := auth.NewVerifier(keys.NewSource(t, func() time.Time { return now }))
	ctx := context.Background()
	took := make([]float64, 0, lookups)
	for i := range 2 * lookups {
		now = now.Add(time.Minute)
		header := []string{"Bearer " + f.tokens[f.next%len(f.tokens)]}
		f.next++
		begin := time.Now()
		_, err := verifier.Verify(ctx, header, nil)
		ns := time.Since(begin).Nanoseconds()
		if err != nil {
			return 0, err
		}
		if i >= lookups { // the first half fills the cache with others
			took = append(took, float64(ns)/1000)
		}
	}
	return median(took), nil
}
