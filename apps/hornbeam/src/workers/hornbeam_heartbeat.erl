%% SPDX-License-Identifier: Apache-2.0

%% @private Whether a worker's event loop answers, and since when not. Pure: the worker process sends
%% and logs what follows.
%%
%% Two kinds of pings. The beats, numbered from 1, come at regular times; a worker that has missed two
%% of them has stalled: it gets nothing new, has to say where it is, and is killed in the end. The
%% probes, which all have the number 0, are sent when somebody notices that a worker with requests in
%% flight says nothing (see {@link hornbeam_load:is_quiet/1}); they only tell whether it is slow to
%% answer or does not come round.
-module(hornbeam_heartbeat).

%% API
-export([new/0]).
-export([beat/3]).
-export([pong/3]).
-export([is_stalled/1]).
-export([silent_ms/2]).
-export([reported/1]).
-export([is_reported/1]).
-export([inspect/2]).
-export([probe/1]).
-export([is_probe_out/2]).

-export_type([heartbeat/0, beat/0]).

-type beat() :: non_neg_integer().

-record(heartbeat, {
    %% Numbers of the last ping and the last pong.
    ping = 0 :: beat(),
    pong = 0 :: beat(),
    %% Since when pings are unanswered; undefined when none is.
    silent_since_ms :: integer() | undefined,
    is_stalled = false :: boolean(),
    %% How long it had been silent when it was asked where it is, and whether the log has that.
    asked_ms :: non_neg_integer() | undefined,
    is_reported = false :: boolean(),
    is_probe_out = false :: boolean(),
    %% How many were sent: an answer may come, and the next one be out, before that is looked at.
    probes = 0 :: non_neg_integer()
}).

-opaque heartbeat() :: #heartbeat{}.

%% Beats that may be missed before the worker gets no new requests.
-define(MISSED_BEATS, 2).
%% What is shorter is not for the log, however short the beats are.
-define(WORTH_LOGGING_MS, 250).
%% How long a worker may take to say where it is; its watchdog looks four times a second.
-define(ANSWER_MS, 500).

-spec new() -> heartbeat().
new() ->
    #heartbeat{}.

%% @doc It is time for a beat. `{ping, N}': send one; `{stalled, SilentMs}': it has missed its second
%% beat just now; `{silent, SilentMs}': it goes on so; `{kill, SilentMs}': for too long.
-spec beat(NowMs :: integer(), StallMs :: timeout(), heartbeat()) ->
    {{ping, beat()} | {stalled | silent | kill, SilentMs :: non_neg_integer()}, heartbeat()}.
beat(NowMs, StallMs, Beats = #heartbeat{ping = Ping, pong = Pong}) ->
    SilentMs = silent_ms(NowMs, Beats),
    %% Erlang's term order puts `infinity' above every number.
    case {SilentMs >= StallMs, Ping - Pong >= ?MISSED_BEATS} of
        {true, _} -> {{kill, SilentMs}, Beats};
        %% While pings are unanswered no more are sent than it takes to notice: a worker that is
        %% blocked for a minute finds two of them in its pipe, not hundreds.
        {false, true} when Beats#heartbeat.is_stalled -> {{silent, SilentMs}, Beats};
        {false, true} -> {{stalled, SilentMs}, Beats#heartbeat{is_stalled = true}};
        {false, false} -> {{ping, Ping + 1}, sent(NowMs, Beats)}
    end.

sent(NowMs, Beats = #heartbeat{ping = Ping, silent_since_ms = undefined}) ->
    Beats#heartbeat{ping = Ping + 1, silent_since_ms = NowMs};
sent(_, Beats = #heartbeat{ping = Ping}) ->
    Beats#heartbeat{ping = Ping + 1}.

%% @doc The loop has answered. `recovered': it had stalled.
-spec pong(beat(), NowMs :: integer(), heartbeat()) ->
    {alive | {recovered, SilentMs :: non_neg_integer()}, heartbeat()} | unknown.
pong(0, _, Beats = #heartbeat{is_probe_out = true}) ->
    {alive, Beats#heartbeat{is_probe_out = false}};
pong(N, NowMs, Beats = #heartbeat{ping = Ping, pong = Pong}) when N > Pong, N =< Ping ->
    %% A loop that lags by one beat all the time is slow, but not silent.
    SinceMs = case N of
        Ping -> undefined;
        _ -> NowMs
    end,
    Answered = Beats#heartbeat{pong = N, silent_since_ms = SinceMs, is_stalled = false,
                               asked_ms = undefined, is_reported = false},
    case Beats#heartbeat.is_stalled of
        true -> {{recovered, silent_ms(NowMs, Beats)}, Answered};
        false -> {alive, Answered}
    end;
pong(_, _, _) ->
    unknown.

-spec is_stalled(heartbeat()) -> boolean().
is_stalled(#heartbeat{is_stalled = IsStalled}) ->
    IsStalled.

%% @doc For how long a ping has been unanswered.
-spec silent_ms(NowMs :: integer(), heartbeat()) -> non_neg_integer().
silent_ms(_, #heartbeat{silent_since_ms = undefined}) -> 0;
silent_ms(NowMs, #heartbeat{silent_since_ms = SinceMs}) -> max(0, NowMs - SinceMs).

%% @doc What to do about a stall of so long for the log: `ask' the worker where it is, `give_up' on
%% an answer, or nothing.
-spec inspect(SilentMs :: non_neg_integer(), heartbeat()) -> {ask | give_up | wait, heartbeat()}.
inspect(SilentMs, Beats = #heartbeat{asked_ms = undefined})
        when SilentMs >= ?WORTH_LOGGING_MS ->
    {ask, Beats#heartbeat{asked_ms = SilentMs}};
inspect(SilentMs, Beats = #heartbeat{asked_ms = AskedMs, is_reported = false})
        when is_integer(AskedMs), SilentMs - AskedMs >= ?ANSWER_MS ->
    {give_up, Beats};
inspect(_, Beats) ->
    {wait, Beats}.

%% @doc The log has this stall.
-spec reported(heartbeat()) -> heartbeat().
reported(Beats) ->
    Beats#heartbeat{is_reported = true}.

-spec is_reported(heartbeat()) -> boolean().
is_reported(#heartbeat{is_reported = IsReported}) ->
    IsReported.

%% @doc A probe is sent: which one it is.
-spec probe(heartbeat()) -> {Probe :: pos_integer(), heartbeat()}.
probe(Beats = #heartbeat{is_probe_out = false, probes = Probes}) ->
    {Probes + 1, Beats#heartbeat{is_probe_out = true, probes = Probes + 1}}.

%% @doc Whether that very probe is unanswered.
-spec is_probe_out(Probe :: pos_integer(), heartbeat()) -> boolean().
is_probe_out(Probe, #heartbeat{is_probe_out = IsProbeOut, probes = Probes}) ->
    IsProbeOut andalso Probe =:= Probes.
