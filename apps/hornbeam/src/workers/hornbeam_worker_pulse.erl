%% SPDX-License-Identifier: Apache-2.0

%% @private Whether a worker answers, and what follows where it does not.
%%
%% Runs in the worker's process, which calls {@link beat/1}, {@link probe/1} and {@link ask_back/2}
%% when it gets `{timeout, _, heartbeat}', `probe' and `{timeout, _, {probed, _}}'. What the pings and
%% their answers mean is decided by {@link hornbeam_heartbeat}; here it is acted on:
%%
%% <ul>
%% <li>A worker that has stalled gets no new requests, gives back those that have not begun, and is
%%   asked where it is, for the log.</li>
%% <li>One that only is slow to answer a probe gives back what another one could serve at once.</li>
%% <li>One that has been silent for `stall_timeout' has to go.</li>
%% </ul>
-module(hornbeam_worker_pulse).

-include_lib("kernel/include/logger.hrl").

%% API
-export([new/3]).
-export([start/1]).
-export([beat/1]).
-export([pong/2]).
-export([probe/1]).
-export([ask_back/2]).
-export([report_stall/2]).
-export([is_stalled/1]).

-export_type([pulse/0]).

-record(pulse, {
    args :: hornbeam_worker:start_args(),
    os_pid :: pos_integer() | undefined,
    writer :: pid(),
    beats = hornbeam_heartbeat:new() :: hornbeam_heartbeat:heartbeat(),
    pipe :: hornbeam_worker_port:held()
}).

-opaque pulse() :: #pulse{}.

%% How long a probe may be unanswered before requests are asked back.
-define(PROBE_MS, 20).
%% For how long a worker that has stalled is asked for them: one that does not read should not find
%% that more and more often in its pipe.
-define(REVOKE_FOR_MS, 60000).

-spec new(hornbeam_worker:start_args(), OsPid :: pos_integer() | undefined, Writer :: pid()) ->
    pulse().
new(Args, OsPid, Writer) ->
    #pulse{args = Args, os_pid = OsPid, writer = Writer}.

%% @doc The worker is ready: have the first beat come.
-spec start(pulse()) -> pulse().
start(Pulse) ->
    ok = await_beat(Pulse),
    hold_pipe(Pulse).

await_beat(#pulse{args = #{config := #{heartbeat := HeartbeatMs}}}) ->
    _ = erlang:start_timer(HeartbeatMs, self(), heartbeat),
    ok.

%% @doc It is time for a beat. `kill': the worker has been silent for too long.
-spec beat(pulse()) -> {ok, pulse()} | {kill, SilentMs :: non_neg_integer()}.
beat(Pulse0 = #pulse{args = #{config := #{stall_timeout := StallMs}}}) ->
    {Action, Beats} = hornbeam_heartbeat:beat(now_ms(), StallMs, Pulse0#pulse.beats),
    case Action of
        {kill, SilentMs} ->
            ?LOG_ERROR(#{what => worker_stalled, silent_ms => SilentMs,
                         os_pid => Pulse0#pulse.os_pid}),
            {kill, SilentMs};
        _ ->
            Pulse = Pulse0#pulse{beats = Beats},
            ok = await_beat(Pulse),
            {ok, act_on_beat(Action, Pulse)}
    end.

%% @doc The loop has answered.
-spec pong(hornbeam_heartbeat:beat(), pulse()) -> pulse().
pong(N, Pulse = #pulse{beats = Beats}) ->
    handle_pong(hornbeam_heartbeat:pong(N, now_ms(), Beats), N, Pulse).

%% @doc Find out whether it answers. For who has got `true' of hornbeam_load:want_probe/1.
-spec probe(pulse()) -> pulse().
probe(Pulse = #pulse{beats = Beats}) ->
    ok = send({ping, 0}, Pulse),
    {Probe, Probed} = hornbeam_heartbeat:probe(Beats),
    _ = erlang:start_timer(?PROBE_MS, self(), {probed, Probe}),
    Pulse#pulse{beats = Probed}.

%% @doc The time for the answer to a probe is over. Requests that have not begun could be served
%% elsewhere at once.
-spec ask_back(Probe :: pos_integer(), pulse()) -> ok.
ask_back(Probe, Pulse = #pulse{beats = Beats, args = #{load := Load}}) ->
    IsOut = hornbeam_heartbeat:is_probe_out(Probe, Beats),
    case IsOut andalso not hornbeam_heartbeat:is_stalled(Beats) of
        true ->
            hornbeam_load:overdue(Load),
            _ = erlang:start_timer(2 * ?PROBE_MS, self(), {probed, Probe}),
            revoke(answering, Pulse);
        false ->
            ok
    end.

%% @doc Log where it is blocked, as it said itself, or that it does not say. Once for each stall. One
%% that has just ended is not worth it.
-spec report_stall(Report :: map() | no_stack, pulse()) -> pulse().
report_stall(Report, Pulse = #pulse{beats = Beats, os_pid = OsPid}) ->
    case hornbeam_heartbeat:is_stalled(Beats) andalso not hornbeam_heartbeat:is_reported(Beats) of
        true ->
            hornbeam_worker_log:blocked(#{
                worker_id => worker_id(Pulse),
                os_pid => OsPid,
                blocked_ms => hornbeam_heartbeat:silent_ms(now_ms(), Beats)
            }, Report),
            Pulse#pulse{beats = hornbeam_heartbeat:reported(Beats)};
        false ->
            Pulse
    end.

-spec is_stalled(pulse()) -> boolean().
is_stalled(#pulse{beats = Beats}) ->
    hornbeam_heartbeat:is_stalled(Beats).

%%% Internal

act_on_beat({ping, N}, Pulse) ->
    ok = send({ping, N}, Pulse),
    Pulse;
act_on_beat({stalled, SilentMs}, Pulse = #pulse{args = #{load := Load}}) ->
    hornbeam_load:stall(Load),
    revoke(open, Pulse),
    %% It may have closed its end of the pipe: then the next write shows it.
    Pipe = hornbeam_worker_port:let_go(Pulse#pulse.pipe),
    inspect(SilentMs, Pulse#pulse{pipe = Pipe});
act_on_beat({silent, SilentMs}, Pulse) ->
    %% Bodies may have come as a whole meanwhile.
    _ = SilentMs < ?REVOKE_FOR_MS andalso revoke(open, Pulse),
    revoke_before_kill(SilentMs, Pulse),
    inspect(SilentMs, Pulse).

inspect(SilentMs, Pulse0 = #pulse{beats = Beats0}) ->
    {What, Beats} = hornbeam_heartbeat:inspect(SilentMs, Beats0),
    Pulse = Pulse0#pulse{beats = Beats},
    case What of
        ask ->
            ok = send({inspect}, Pulse),
            Pulse;
        give_up ->
            report_stall(no_stack, Pulse);
        wait ->
            Pulse
    end.

handle_pong({alive, Beats}, N, Pulse = #pulse{args = #{load := Load}}) ->
    _ = N =:= 0 andalso hornbeam_load:probed(Load),
    Pulse#pulse{beats = Beats};
handle_pong({{recovered, SilentMs}, Beats}, _, Pulse = #pulse{args = Args}) ->
    #{load := Load, pool := Pool} = Args,
    hornbeam_load:recover(Load),
    _ = hornbeam_heartbeat:is_reported(Pulse#pulse.beats) andalso
        ?LOG_WARNING(#{what => loop_unblocked, worker_id => worker_id(Pulse),
                       os_pid => Pulse#pulse.os_pid, blocked_ms => SilentMs}),
    %% There may be somebody in the queue whom it could serve.
    hornbeam_pool:has_place(Pool),
    hold_pipe(Pulse#pulse{beats = Beats});
handle_pong(unknown, _, Pulse) ->
    Pulse.

hold_pipe(Pulse = #pulse{os_pid = OsPid}) ->
    Pulse#pulse{pipe = hornbeam_worker_port:hold(OsPid)}.

revoke(How, Pulse = #pulse{args = #{server := Server}}) ->
    _ = hornbeam_selection:has_other(Server, self(), How) andalso send({revoke}, Pulse),
    ok.

%% What has not begun would fail with it otherwise; so it waits for its successor.
revoke_before_kill(SilentMs, Pulse = #pulse{args = #{config := Config}}) ->
    #{stall_timeout := StallMs, heartbeat := HeartbeatMs} = Config,
    _ = StallMs =/= infinity andalso SilentMs + 2 * HeartbeatMs >= StallMs
        andalso send({revoke}, Pulse),
    ok.

send(Message, #pulse{writer = Writer}) ->
    hornbeam_writer:say(Writer, Message).

worker_id(#pulse{args = #{worker_id := WorkerId}}) ->
    WorkerId.

now_ms() ->
    erlang:monotonic_time(millisecond).
