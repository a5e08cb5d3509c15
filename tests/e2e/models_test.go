package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"postern/shared/check"
	"postern/tests/bedrockfake"
)

// modelKey is the key that the upstream wants: another canary.
const modelKey = "sk-canary-0Zx8Qw3Er5Ty7Ui9Op1As2Df4Gh6Jk8Lz"

// upstream is a fake OpenAI-compatible server: it answers with the words of the
// last message, or fails in the way that the message names.
func upstream(t *testing.T) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+modelKey || r.URL.Path != "/v1/chat/completions" {
			http.Error(w, "who is that: "+r.Header.Get("Authorization"), http.StatusUnauthorized)
			return
		}
		var req struct {
			Messages []struct{ Content string }
			Stream   bool
		}
		body, _ := io.ReadAll(r.Body)
		if json.Unmarshal(body, &req) != nil || !req.Stream || len(req.Messages) == 0 {
			http.Error(w, "not a streamed completion", http.StatusBadRequest)
			return
		}
		text := req.Messages[len(req.Messages)-1].Content
		switch {
		case strings.HasPrefix(text, "busy"):
			w.Header().Set("Retry-After", "60")
			http.Error(w, "CANARY-TEXT too many", http.StatusTooManyRequests)
			return
		case strings.HasPrefix(text, "broken"):
			http.Error(w, "CANARY-TEXT stack", http.StatusInternalServerError)
			return
		case strings.HasPrefix(text, "nonsense"):
			io.WriteString(w, "<html>CANARY-TEXT</html>")
			return
		case strings.HasPrefix(text, "slow"):
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for word := range strings.SplitAfterSeq("You said: "+text, " ") {
			delta, _ := json.Marshal(map[string]any{"choices": []any{map[string]any{"index": 0, "delta": map[string]any{"content": word}}}})
			fmt.Fprintf(w, "data: %s\n\n", delta)
			w.(http.Flusher).Flush()
			if strings.HasPrefix(text, "cut") {
				panic(http.ErrAbortHandler)
			}
		}
		io.WriteString(w, `data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`+"\n\n"+
			`data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7}}`+"\n\n"+"data: [DONE]\n\n")
	}))
	t.Cleanup(server.Close)
	return server.URL + "/v1"
}

func chatCase(name, body string, want check.Want) check.Case {
	return check.Case{Name: name, Method: "POST", Path: "/chat", Body: body, Want: want,
		Header: http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}}
}

// answers are what a chat with a model of that name must bring on either side,
// and every failure of it but that it is too slow.
func answers(name string) []check.Case {
	fault := func(status int, text string) check.Want { return check.Want{Status: status, Error: text} }
	return []check.Case{
		chatCase("an answer", `{"message":"hello there"}`, check.Want{Status: 200, JSON: map[string]any{
			"response": "You said: hello there", "model": name, "usage.input_tokens": 11, "usage.output_tokens": 7}}),
		chatCase("a stream", `{"message":"hello there","stream":true}`, check.Want{Status: 200,
			Body: "event: delta\ndata: {\"delta\":\"You \"}\n\nevent: delta\ndata: {\"delta\":\"said: \"}\n\n"}),
		chatCase("too busy", `{"message":"busy"}`, fault(503, "Model backend unavailable")),
		chatCase("an error", `{"message":"broken"}`, fault(502, "Model backend failed")),
		chatCase("nonsense", `{"message":"nonsense"}`, fault(502, "Model backend failed")),
		chatCase("cut in the middle", `{"message":"cut it off"}`, fault(502, "Model backend failed")),
		chatCase("cut in the middle of a stream", `{"message":"cut it off","stream":true}`, check.Want{Status: 200, Body: "event: error\ndata: {\"status\":502,"}),
	}
}

// onBothSides runs cases against both sides and searches what came, and the
// logs, for what must not be there.
func onBothSides(t *testing.T, cases []check.Case, here *local, cloud *deployment) {
	t.Helper()
	c := client(t)
	for _, row := range cases {
		for side, url := range map[string]string{"on this machine": here.url, "on Lambda": cloud.url} {
			response, faults := check.Target{URL: url, Token: token, Client: c}.Run(t.Context(), row)
			for _, f := range faults {
				t.Errorf("%s, %s: %s", row.Name, side, f)
			}
			if response != nil && (strings.Contains(string(response.Body), "CANARY-TEXT") || strings.Contains(string(response.Body), modelKey)) {
				t.Errorf("P4: %s, %s: the upstream's words came through: %s", row.Name, side, response.Body)
			}
		}
	}
	for side, logs := range map[string]string{"local": here.logs(), "Lambda": cloud.logs()} {
		if strings.Contains(logs, modelKey) {
			t.Errorf("P4: the log of the %s side has the model's key in it", side)
		}
	}
}

// TestAnOpenAICompatibleModel is the same chat with a model behind, on both
// sides, and everything that can go wrong with it. On Lambda the key is in a
// secret.
func TestAnOpenAICompatibleModel(t *testing.T) {
	t.Parallel()
	url := upstream(t)
	sides := func(timeout string) (*local, *deployment) {
		return start(t, map[string]string{"MODEL": "openai/test", "OPENAI_BASE_URL": url, "OPENAI_API_KEY": modelKey, "CHAT_TIMEOUT": timeout}),
			deploy(t, map[string]string{"Model": "openai/test", "OpenAIBaseUrl": url, "ChatTimeout": timeout, "ModelApiKeySecretArn": aSecret}, nil)
	}
	here, cloud := sides("20s")
	onBothSides(t, answers("openai/test"), here, cloud)
	// Which is no answer to the others, where much else goes on.
	here, cloud = sides("1s")
	onBothSides(t, []check.Case{chatCase("too slow", `{"message":"slow"}`, check.Want{Status: 504, Error: "Model backend timed out"})}, here, cloud)
}

// TestNoModelServerIsThere: nobody listens.
func TestNoModelServerIsThere(t *testing.T) {
	t.Parallel()
	const url = "http://127.0.0.1:1/v1" // a port of the system's choice may soon be another test's
	here := start(t, map[string]string{"MODEL": "openai/test", "OPENAI_BASE_URL": url})
	cloud := deploy(t, map[string]string{"Model": "openai/test", "OpenAIBaseUrl": url}, nil)
	onBothSides(t, []check.Case{chatCase("nobody", `{"message":"hello"}`, check.Want{Status: 503, Error: "Model backend unavailable"})}, here, cloud)
}

// TestBedrock is the same chat over Bedrock's wire, through the real SDK.
func TestBedrock(t *testing.T) {
	t.Parallel()
	const id = "anthropic.claude-3-5-haiku-20241022-v1:0"
	server := bedrockfake.Start()
	t.Cleanup(server.Close)
	server.Script(bedrockfake.Say("You ", "said: hello")...)
	environment := map[string]string{"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": server.URL}
	cloud := deploy(t, map[string]string{"Model": "bedrock/" + id}, environment)
	here := start(t, map[string]string{"MODEL": "bedrock/" + id, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": server.URL,
		"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": modelKey})
	onBothSides(t, []check.Case{
		chatCase("an answer", `{"message":"hello"}`, check.Want{Status: 200, JSON: map[string]any{
			"response": "You said: hello", "model": "bedrock/" + id, "usage.input_tokens": 10, "usage.output_tokens": 2}}),
		chatCase("a stream", `{"message":"hello","stream":true}`, check.Want{Status: 200, Body: "event: delta\ndata: {\"delta\":\"You \"}\n\n"}),
	}, here, cloud)
	server.Inject(bedrockfake.Fail(403, "AccessDeniedException", "CANARY-TEXT"))
	onBothSides(t, []check.Case{
		chatCase("not allowed", `{"message":"hello"}`, check.Want{Status: 503, Error: "Model backend unavailable"}),
	}, here, cloud)
	if v := server.Violations(); len(v) > 0 {
		t.Errorf("calls to Bedrock: %v", v)
	}
}
