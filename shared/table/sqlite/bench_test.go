package sqlite_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"postern/shared/table"
	"postern/shared/table/sqlite"
)

// issued is the key of the nth of many issued keys' records.
func issued(n int) table.Key {
	const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	x := uint64(n+1) * 0x9e3779b97f4a7c15
	var id [12]byte
	for i := range id {
		id[i] = letters[x%62]
		x = x/62 ^ x<<40
	}
	return table.Key{Partition: "key#" + string(id[:1]), Sort: string(id[:])}
}

// BenchmarkGetCold reads records of 400 bytes at random, of few and of many.
func BenchmarkGetCold(b *testing.B) {
	for _, rows := range []int{10, 1_000_000} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			s := open(b, sqlite.Config{Dir: newFolder(b)})
			record := strings.Repeat("r", 400)
			if err := sqlite.Exec(s, "BEGIN"); err != nil {
				b.Fatal(err)
			}
			for i := range rows {
				if _, err := s.Put(context.Background(), issued(i), []byte(record), 0, time.Time{}); err != nil {
					b.Fatal(err)
				}
			}
			if err := sqlite.Exec(s, "COMMIT"); err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Get(ctx, issued(rand.IntN(rows))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkAdd adds to a counter in memory, as every request does.
func BenchmarkAdd(b *testing.B) {
	s := open(b, sqlite.Config{Dir: newFolder(b)})
	key := table.Key{Partition: "use#client-0a1b2c3d", Sort: "2026-03-01T10"}
	deltas := []table.Delta{{Counter: "requests", By: 1}, {Counter: "agent/researcher", By: 1}, {Counter: "last", By: 0}}
	until := time.Now().Add(time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		if _, added, err := s.Add(context.Background(), key, deltas, table.NoMax, until); !added || err != nil {
			b.Fatal(added, err)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	s := open(b, sqlite.Config{Dir: newFolder(b)})
	for i := 0; b.Loop(); i++ {
		if _, err := s.Put(context.Background(), issued(i), []byte("one"), 0, time.Time{}); err != nil {
			b.Fatal(err)
		}
	}
}
