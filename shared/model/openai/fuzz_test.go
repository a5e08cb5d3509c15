package openai_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"postern/shared/model"
	"postern/shared/model/openai"
)

// Whatever a server sends: no panic, and one end, which is a Stop or an error
// of a known kind. Each event has one part, and a tool call is whole.
func FuzzStream(f *testing.F) {
	for _, body := range []string{
		"", "\n", "data:", "data: [DONE]", "data: {}\n\n", ": hm\n\n", "<html>", "data: null\ndata: []\ndata: 1\n",
		"data: " + strings.Join([]string{begin, text("a\n\xff"), stop, used, done}, "\n\ndata: "),
		"data: " + strings.Join([]string{tool(`{"index":0,"id":"a","function":{"name":"x","arguments":"{\"a\":"}}`), tool(`{"index":0,"function":{"arguments":"1}"}}`), toolsR, done}, "\r\n\r\ndata:"),
		"data: " + tool(`{"function":{"name":"x"}},{"index":-1,"id":"b","function":{"name":"y","arguments":" "}}`) + "\ndata: [DONE]\n",
		"data: " + strings.Replace(stop, "stop", "length", 1) + "\n",
		`data: {"error":{"message":"` + canary + `"}}` + "\n",
		`{"error":"` + canary,
	} {
		f.Add(200, []byte(body), false)
		f.Add(200, []byte(body), true)
		f.Add(401, []byte(body), false)
	}
	f.Fuzz(func(t *testing.T, status int, body []byte, breaks bool) {
		var stream io.Reader = strings.NewReader(string(body))
		if breaks {
			stream = iotest.TimeoutReader(iotest.OneByteReader(stream))
		}
		m, err := openai.New(openai.Config{Key: keyIs(canary), HTTPClient: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: http.Header{"X-Should-Retry": {"false"}}, Body: io.NopCloser(stream)}, nil
		})}})
		if err != nil {
			t.Fatal(err)
		}
		events, err := collect(t, m.Stream(context.Background(), ask))
		for i, event := range events {
			parts := 0
			for _, there := range []bool{event.Text != "", event.ToolCall != nil, event.Stop != ""} {
				if there {
					parts++
				}
			}
			if parts != 1 || (event.Stop != "") != (err == nil && i == len(events)-1) {
				t.Fatalf("event %d of %d: %+v, %v", i, len(events), event, err)
			}
			if call := event.ToolCall; call != nil {
				var object map[string]any
				if call.ID == "" || call.Name == "" || json.Unmarshal(call.Arguments, &object) != nil || object == nil {
					t.Fatalf("call %+v", call)
				}
			}
			if event.Usage.InputTokens < 0 || event.Usage.OutputTokens < 0 {
				t.Fatalf("usage %+v", event.Usage)
			}
		}
		if err == nil && len(events) == 0 {
			t.Fatal("no end")
		}
		if err != nil {
			if !errors.Is(err, model.ErrFailed) && !errors.Is(err, model.ErrUnavailable) && !errors.Is(err, model.ErrTimeout) {
				t.Fatalf("of no kind: %v", err)
			}
			notShown(t, err)
		}
	})
}
