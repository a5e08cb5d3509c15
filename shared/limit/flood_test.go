package limit_test

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/shared/limit"
)

// failures are n failures in a row from one address.
type failures struct {
	at   time.Duration // since ten o'clock
	from string        // "": an address that can't be told
	n    int
	wait time.Duration // what the last is told
}

// TestFlood is P8 and I10: who tries tokens is answered in full 20 times a
// minute, and told to wait then.
func TestFlood(t *testing.T) {
	t.Parallel()
	const here, there = "192.0.2.7", "192.0.2.8"
	rows := []struct {
		name  string
		flood []failures
	}{
		{"20 failures are answered in full, the next are told to wait for the minute's end", []failures{
			{from: here, n: 20}, {from: here, n: 1, wait: time.Minute}, {at: 20 * sec, from: here, n: 5, wait: 40 * sec}}},
		{"the wait is rounded up to seconds, and never nothing", []failures{
			{from: here, n: 20}, {at: 500 * time.Millisecond, from: here, n: 1, wait: time.Minute}, {at: 58*sec + ns, from: here, n: 1, wait: 2 * sec},
			{at: 59 * sec, from: here, n: 1, wait: sec}, {at: time.Minute - ns, from: here, n: 1, wait: sec}}},
		{"a new minute forgets", []failures{
			{from: here, n: 21, wait: time.Minute}, {at: time.Minute - ns, from: here, n: 1, wait: sec},
			{at: time.Minute, from: here, n: 20}, {at: time.Minute, from: here, n: 1, wait: time.Minute}}},
		{"the minute is the clock's, not 60 s from the first failure", []failures{
			{at: 59 * sec, from: here, n: 20}, {at: 60 * sec, from: here, n: 20}, {at: 61 * sec, from: here, n: 1, wait: 59 * sec}}},
		{"another address has a count of its own", []failures{
			{from: here, n: 30, wait: time.Minute}, {from: there, n: 20}, {from: here, n: 1, wait: time.Minute}, {from: there, n: 1, wait: time.Minute}}},
		{"IPv4 written as IPv6 is the same sender", []failures{
			{from: here, n: 10}, {from: "::ffff:192.0.2.7", n: 10}, {from: here, n: 1, wait: time.Minute}, {from: "::ffff:192.0.2.7", n: 1, wait: time.Minute}, {from: "::ffff:192.0.2.8", n: 20}}},
		{"an IPv6 /64 is one sender", []failures{
			{from: "2001:db8:0:1::1", n: 10}, {from: "2001:db8:0:1:ffff:ffff:ffff:ffff", n: 10}, {from: "2001:db8:0:1::", n: 1, wait: time.Minute}}},
		{"the /64 beside it is another", []failures{
			{from: "2001:db8:0:1::1", n: 21, wait: time.Minute}, {from: "2001:db8::1", n: 20}, {from: "2001:db8:0:2::1", n: 20}}},
		{"zones don't tell senders apart", []failures{
			{from: "fe80::1%eth0", n: 10}, {from: "fe80::2%eth1", n: 10}, {from: "fe80::1", n: 1, wait: time.Minute}}},
		{"IPv4 neighbours are different senders", []failures{
			{from: "192.0.2.0", n: 21, wait: time.Minute}, {from: "192.0.2.1", n: 20}}},
		{"addresses that can't be told share one count", []failures{
			{from: "", n: 20}, {from: "", n: 1, wait: time.Minute}, {from: here, n: 20}}},
		{"a clock that steps back never makes a longer wait than a minute", []failures{
			{at: time.Hour, from: here, n: 21, wait: time.Minute}, {at: 0, from: here, n: 20}, {at: 0, from: here, n: 1, wait: time.Minute}}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := &clock{}
			f := &limit.Flood{Now: c.Now}
			for i, burst := range row.flood {
				c.Set(ten.Add(burst.at))
				var from netip.Addr
				if burst.from != "" {
					from = netip.MustParseAddr(burst.from)
				}
				for n := range burst.n {
					got := f.Failed(from)
					if n == burst.n-1 && got != burst.wait || burst.wait == 0 && got != 0 {
						t.Fatalf("burst %d, failure %d of %q: wait %s, want %s", i+1, n+1, burst.from, got, burst.wait)
					}
				}
			}
		})
	}
}

func nth(i int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 0x0b000000+uint32(i))
	return netip.AddrFrom4(b)
}

// TestFloodIsBounded is P15: a million addresses need no more room than 10,000,
// those known before keep their own count, and the rest share one.
func TestFloodIsBounded(t *testing.T) {
	t.Parallel()
	c := &clock{}
	c.Set(ten)
	f := &limit.Flood{Now: c.Now}
	const room = 10_000
	for i := range room {
		if wait := f.Failed(nth(i)); wait != 0 {
			t.Fatalf("address %d: wait %s", i, wait)
		}
	}
	for i := range 20 {
		if wait := f.Failed(nth(room + i)); wait != 0 {
			t.Fatalf("the %d. address beyond: wait %s", i+1, wait)
		}
	}
	for i := range 90_000 {
		if wait := f.Failed(nth(room + 20 + i)); wait != time.Minute {
			t.Fatalf("the %d. address beyond: wait %s", i+21, wait)
		}
	}
	if n := limit.Sources(f); n > room+1 {
		t.Errorf("%d addresses are kept", n)
	}
	for range 19 {
		if wait := f.Failed(nth(0)); wait != 0 {
			t.Errorf("a known address is told to wait %s for what others did", wait)
		}
	}
	if wait := f.Failed(nth(0)); wait != time.Minute {
		t.Errorf("a known address is told to wait %s after 20 of its own", wait)
	}

	c.Set(ten.Add(time.Minute))
	if wait := f.Failed(nth(1 << 20)); wait != 0 {
		t.Errorf("a new minute doesn't forget: wait %s", wait)
	}
	if n := limit.Sources(f); n != 1 {
		t.Errorf("%d addresses are kept in a new minute", n)
	}
}

// TestFloodUnderConcurrency: exactly 20 are answered in full, whoever asks.
func TestFloodUnderConcurrency(t *testing.T) {
	t.Parallel()
	f := &limit.Flood{Now: func() time.Time { return ten }}
	var full atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for range 10 {
				if f.Failed(nth(1)) == 0 {
					full.Add(1)
				}
			}
		})
	}
	all.Wait()
	if full.Load() != 20 {
		t.Errorf("%d failures are answered in full", full.Load())
	}
}

// TestFloodOnTheRealClock: the zero value is ready.
func TestFloodOnTheRealClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var f limit.Flood
		for range 20 {
			f.Failed(nth(1))
		}
		wait := f.Failed(nth(1))
		if wait != time.Minute {
			t.Errorf("wait %s", wait)
		}
		time.Sleep(wait) // as it was told
		if wait := f.Failed(nth(1)); wait != 0 {
			t.Errorf("who waits as long as he was told is to wait %s more", wait)
		}
	})
}

func BenchmarkFailed(b *testing.B) {
	var f limit.Flood
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f.Failed(nth(i % 20_000))
	}
}
