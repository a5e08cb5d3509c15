package e2e_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/shared/check"
	"postern/tests/bedrockfake"
	"postern/tests/lambdahost"
)

// haiku is a model of Bedrock's.
const haiku = "anthropic.claude-3-5-haiku-20241022-v1:0"

// onBedrock is the environment of a local server with Bedrock at url.
func onBedrock(url string) map[string]string {
	return map[string]string{"MODEL": "bedrock/" + haiku, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": url,
		"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": modelKey}
}

// TestBedrockFails is everything that can go wrong with Bedrock, on both sides:
// the contract's answer, in time, and nothing of what came.
func TestBedrockFails(t *testing.T) {
	t.Parallel()
	server := bedrockfake.Start()
	t.Cleanup(server.Close)
	endpoint := map[string]string{"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": server.URL}
	sides := func(timeout time.Duration) (*local, *deployment) {
		environment := onBedrock(server.URL)
		environment["CHAT_TIMEOUT"] = timeout.String()
		return start(t, environment), deploy(t, map[string]string{"Model": "bedrock/" + haiku, "ChatTimeout": timeout.String()}, endpoint)
	}
	// A short timeout is for those rows alone that wait for it: where much else goes
	// on it might be the answer to the others too.
	const short = 2 * time.Second
	here, cloud := sides(20 * time.Second)
	hereInHaste, cloudInHaste := sides(short)

	half := []bedrockfake.Step{bedrockfake.MessageStart(), bedrockfake.Text("half")}
	nonsense := bedrockfake.Handle(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.amazon.eventstream")
		io.WriteString(w, "<html>CANARY-TEXT</html>")
	})
	failed := check.Want{Status: 502, Error: "Model backend failed"}
	unavailable := check.Want{Status: 503, Error: "Model backend unavailable"}
	tooSlow := check.Want{Status: 504, Error: "Model backend timed out"}
	for _, row := range []struct {
		name   string
		fault  *bedrockfake.Fault
		script []bedrockfake.Step
		want   check.Want
		last   string // of a stream; "": the stream hasn't begun
	}{
		{"hangs up", bedrockfake.Drop(), nil, failed, ""},
		{"too busy", bedrockfake.Fail(429, "ThrottlingException", "CANARY-TEXT"), nil, unavailable, ""},
		{"an error", bedrockfake.Fail(500, "InternalServerException", "CANARY-TEXT"), nil, failed, ""},
		{"nonsense", nonsense, nil, failed, ""},
		{"too slow", bedrockfake.Stall(), nil, tooSlow, ""},
		{"too slow in the middle", nil, append(half[:2:2], bedrockfake.Hang()), tooSlow, `event: error` + "\n" + `data: {"status":504,`},
		{"cut in the middle", nil, append(half[:2:2], bedrockfake.Cut()), failed, `event: error` + "\n" + `data: {"status":502,`},
		{"an error in the middle", nil, append(half[:2:2], bedrockfake.Exception("modelStreamErrorException", "CANARY-TEXT")), failed,
			`event: error` + "\n" + `data: {"status":502,`},
	} {
		server.Heal()
		server.Script(row.script...)
		if row.fault != nil {
			server.Inject(row.fault)
		}
		streamed := row.want
		if row.last != "" {
			streamed = check.Want{Status: 200, Body: "event: delta\ndata: {\"delta\":\"half\"}\n\n" + row.last}
		}
		here, cloud := here, cloud
		if row.want.Status == 504 {
			here, cloud = hereInHaste, cloudInHaste
		}
		began := time.Now()
		onBothSides(t, []check.Case{
			chatCase(row.name, `{"message":"hello"}`, row.want),
			chatCase(row.name+", streamed", `{"message":"hello","stream":true}`, streamed),
		}, here, cloud)
		if took := time.Since(began); took > 4*short+30*time.Second && row.want.Status == 504 {
			t.Errorf("%s: four chats take %v, each has %v", row.name, took, short)
		}
	}
	if v := server.Violations(); len(v) > 0 {
		t.Errorf("calls to Bedrock: %v", v)
	}
}

// TestNoBedrockIsThere: nobody listens.
func TestNoBedrockIsThere(t *testing.T) {
	t.Parallel()
	const url = "http://127.0.0.1:1" // a port of the system's choice may soon be another test's
	here := start(t, onBedrock(url))
	cloud := deploy(t, map[string]string{"Model": "bedrock/" + haiku}, map[string]string{"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": url})
	onBothSides(t, []check.Case{chatCase("nobody", `{"message":"hello"}`, check.Want{Status: 503, Error: "Model backend unavailable"})}, here, cloud)
}

// TestACallerWhoLeavesEndsTheCallToTheModel: of whoever has left no more tokens
// are paid for. On Lambda nothing tells a function that its caller has left.
func TestACallerWhoLeavesEndsTheCallToTheModel(t *testing.T) {
	t.Parallel()
	server := bedrockfake.Start()
	t.Cleanup(server.Close)
	server.Script(bedrockfake.MessageStart(), bedrockfake.Text("half"), bedrockfake.Hang())
	here := start(t, onBedrock(server.URL))

	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	r, err := http.NewRequestWithContext(ctx, "POST", here.url+"/chat", strings.NewReader(`{"message":"hello","stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}
	response, err := client(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.ReadFull(response.Body, make([]byte, len("event: delta\n"))); err != nil {
		t.Fatal(err)
	}
	leave()
	patient, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := server.AwaitLeft(patient, 1); err != nil {
		t.Error(err)
	}
}

// TestAKeyAloneSwitchesNothingOn: no money is spent unasked, on either side, by a
// key of OpenAI's, nor by the credentials that every Lambda has.
func TestAKeyAloneSwitchesNothingOn(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("a model is asked: %s %s", r.Method, r.URL)
	}))
	t.Cleanup(server.Close)
	bedrock := map[string]string{"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": server.URL}
	environment := onBedrock(server.URL)
	environment["MODEL"], environment["OPENAI_BASE_URL"], environment["OPENAI_API_KEY"] = "", server.URL, modelKey
	here := start(t, environment)
	cloud := deploy(t, map[string]string{"OpenAIBaseUrl": server.URL, "ModelApiKeySecretArn": aSecret, "BedrockModelArns": "*"}, bedrock)
	onBothSides(t, []check.Case{
		chatCase("an answer", `{"message":"hello"}`, check.Want{Status: 200, JSON: map[string]any{"model": "offline/eliza"}}),
	}, here, cloud)
	eventually(t, "the start says how", func() bool {
		return strings.Contains(here.logs(), "OPENAI_API_KEY: without MODEL it switches nothing on")
	})
}

// TestAnUnknownProviderStopsTheFunction, as it stops the program (refused.txtar).
func TestAnUnknownProviderStopsTheFunction(t *testing.T) {
	t.Parallel()
	host, err := lambdahost.Start(lambdahost.Config{Bootstrap: filepath.Join(binaries, "chat"), Env: []string{"MODEL=nobody/x", "TABLE_NAME=" + tableName}, Dir: "../..", InitTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if result := invoke(t, host, map[string]any{}, nil); result.Err == nil {
		t.Errorf("answered %s", result.Payload)
	}
	if !strings.Contains(host.Logs(), "MODEL: there is no model nobody/x; there is bedrock/<name>, offline/eliza, openai/<name>") {
		t.Errorf("the log doesn't say why: %s", host.Logs())
	}
}

// TestAnAgentOutsideBedrockModelArnsIsAWarning: the template's parameter reaches
// the function, which warns once for each of the three sample agents.
func TestAnAgentOutsideBedrockModelArnsIsAWarning(t *testing.T) {
	t.Parallel()
	for arns, want := range map[string]int{
		"": 3,
		"arn:aws:bedrock:eu-west-1::foundation-model/*":                                                                      3,
		"arn:aws:bedrock:us-east-1:123456789012:inference-profile/eu.*,arn:aws:bedrock:us-east-1::foundation-model/" + haiku: 0,
	} {
		parameters := map[string]string{"Model": "bedrock/" + haiku, "BedrockModelArns": arns}
		cloud := deploy(t, parameters, map[string]string{"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "http://127.0.0.1:1"})
		for range 2 { // a warm function says nothing more
			check.Target{URL: cloud.url, Token: token, Client: client(t)}.Run(t.Context(), chatCase("any", `{"message":"hello"}`, check.Want{Status: 503}))
		}
		cloud.end()
		warnings := 0
		for line := range strings.Lines(cloud.hosts["ChatFunction"].Logs()) {
			if strings.Contains(line, `"level":"WARN"`) && strings.Contains(line, "BedrockModelArns") && strings.Contains(line, `"model":"bedrock/`+haiku) {
				warnings++
			}
		}
		if warnings != want {
			t.Errorf("with %q: %d warnings, want %d\n%s", arns, warnings, want, cloud.logs())
		}
	}
}
