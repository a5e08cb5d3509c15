package keys_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/auth"
	"postern/shared/keys"
	"postern/shared/table"
)

// TestPresent: the holder of a key is who the key's record says now, and nobody
// if it is refused, whatever it was.
func TestPresent(t *testing.T) {
	t.Parallel()
	full := `{"name":"ci","scopes":["chat"],"agents":["judge"],"rate_limit":7,"tokens_per_day":100,"expires_at":"2000-01-01T12:00:00Z","allowed_ips":["192.0.2.0/24"]}`
	for _, row := range []struct {
		name   string
		change func(s *site, id string)
		want   error
	}{
		{"a key as it was", func(*site, string) {}, nil},
		{"other bounds", func(s *site, id string) {
			s.ask("PATCH", "/keys/"+id, `{"name":"new","scopes":["agents:read"],"agents":["clerk"],"rate_limit":8,"tokens_per_day":null,"expires_at":"2000-01-01T13:00:00Z"}`).want(s, 200)
		}, nil},
		{"a rotated key", func(s *site, id string) { s.ask("POST", "/keys/"+id+"/rotate", `{"grace":"0s"}`).want(s, 200) }, nil},
		{"right before its end", func(s *site, id string) { time.Sleep(12*time.Hour - time.Nanosecond) }, nil},
		{"an expired key", func(s *site, id string) { time.Sleep(12 * time.Hour) }, auth.Expired},
		{"a disabled key", func(s *site, id string) { s.ask("PATCH", "/keys/"+id, `{"disabled":true}`).want(s, 200) }, auth.Disabled},
		{"a revoked key", func(s *site, id string) { s.ask("DELETE", "/keys/"+id, "").want(s, 204) }, auth.Revoked},
		{"a key whose record is gone", func(s *site, id string) {
			key := table.Key{Partition: "key#" + id[:1], Sort: id}
			if item, err := s.table.Get(s.Context(), key); err != nil || s.table.Delete(s.Context(), key, item.Version) != nil {
				s.Fatal(err)
			}
		}, auth.Unknown},
		{"the table is down", func(s *site, id string) { s.table.down(true) }, errDown},
		{"a record that is none", func(s *site, id string) {
			key := table.Key{Partition: "key#" + id[:1], Sort: id}
			if _, err := s.table.Put(s.Context(), key, []byte("{}"), 1, time.Time{}); err != nil {
				s.Fatal(err)
			}
		}, errDamaged},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.Set(time.Now())
				created := s.create(full)
				was := s.holder(created.Token)
				present := keys.Present(s.table)
				if now, err := present(t.Context(), was); err != nil || now.ID != was.ID {
					t.Errorf("at first %+v, %v", now, err)
				}
				row.change(s, created.ID) // is seen at once: nothing is cached
				now, err := present(t.Context(), was)
				reason, refused := errors.AsType[auth.Reason](err)
				switch {
				case row.want == nil:
					s.Set(time.Now())
					want := was
					if row.name != "a rotated key" { // whose token of before is refused
						want = s.holder(created.Token)
					}
					if diff := cmp.Diff(want, now); diff != "" || err != nil {
						t.Errorf("%v (-want +got):\n%s", err, diff)
					}
					return
				case row.want == errDamaged:
					if err == nil || refused {
						t.Errorf("error %v", err)
					}
				case !errors.Is(err, row.want) || refused != (row.want != errDown):
					t.Errorf("error %v, the reason %q, want %v", err, reason, row.want)
				}
				if diff := cmp.Diff(auth.Caller{}, now); diff != "" {
					t.Errorf("a caller beside an error: %s", diff)
				}
			})
		})
	}
}

// errDamaged stands for any error that is no Reason.
var errDamaged = errors.New("damaged")

// TestPresentOfOthers: nobody is asked for those whom the table doesn't know, nor
// for what can't be an id.
func TestPresentOfOthers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.table.down(true)
	present := keys.Present(s.table)
	bounded := auth.RootCaller()
	bounded.Name, bounded.Agents = "kept", []string{"judge"}
	for _, was := range []auth.Caller{auth.RootCaller(), auth.AdminCaller(), auth.AnonymousCaller(), bounded, {ID: "client-1a2b3c4d", Kind: auth.Client}} {
		if now, err := present(t.Context(), was); err != nil || cmp.Diff(was, now) != "" {
			t.Errorf("%s is %+v, %v", was.ID, now, err)
		}
	}
	for _, id := range []string{"", "x", "AAAAAAAAAAA", "AAAAAAAAAAAAA", "AAAAAAAAAAA#", "root"} {
		if now, err := present(t.Context(), auth.Caller{ID: id, Kind: auth.IssuedKey, Scopes: auth.RootCaller().Scopes}); err != auth.Unknown || now.ID != "" {
			t.Errorf("%q is %+v, %v", id, now, err)
		}
	}
}
