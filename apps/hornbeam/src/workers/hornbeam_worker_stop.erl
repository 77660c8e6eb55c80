%% SPDX-License-Identifier: Apache-2.0

%% @private How a worker is brought to its end: asked first, for a bounded time, and killed then.
%%
%% Runs in the worker's process. The bounds of an orderly end come as `{timeout, _, stop}'.
-module(hornbeam_worker_stop).

%% API
-export([ask/3]).
-export([await_exit/0]).
-export([ask_and_wait/3]).
-export([end_process/2]).
-export([kill/1]).

%% How long a worker may take to leave after its `stopped', or after its input has closed.
-define(EXIT_TIMEOUT_MS, 2000).

%% @doc Have it finish what it has within `TimeoutMs' and shut down. May be said again: the time is
%% over earlier then.
-spec ask(TimeoutMs :: timeout(), Writer :: pid(), hornbeam_config:config()) -> ok.
ask(TimeoutMs0, Writer, Config) ->
    TimeoutMs = case hornbeam_hurry:is_asked() of
        true -> 0;
        false -> TimeoutMs0
    end,
    ok = hornbeam_writer:say(Writer, {shutdown, TimeoutMs}),
    case hornbeam_hurry:bound_ms(bound_ms(TimeoutMs, Config)) of
        infinity -> ok;
        BoundMs -> start_timer(BoundMs)
    end.

%% @doc It has said `stopped': it is to leave soon.
-spec await_exit() -> ok.
await_exit() ->
    start_timer(?EXIT_TIMEOUT_MS).

%% @doc The supervisor wants the worker's process to end: the same as ask/3, waited for here. The
%% supervisor's own timeout bounds it.
-spec ask_and_wait(port(), Writer :: pid(), hornbeam_config:config()) -> ok.
ask_and_wait(Port, Writer, Config = #{shutdown_timeout := TimeoutMs}) ->
    ok = hornbeam_writer:say(Writer, {shutdown, TimeoutMs}),
    wait_for_exit(Port, hornbeam_hurry:bound_ms(bound_ms(TimeoutMs, Config))).

%% @doc The OS process is never left behind, also one that would not leave by itself (a C extension
%% that holds the interpreter's lock). It ends before the port closes: OTP 25 frees what it has read
%% of an unfinished packet at the end of the input, but not in port_close/1.
-spec end_process(port(), OsPid :: pos_integer()) -> ok.
end_process(Port, OsPid) ->
    receive
        {Port, {exit_status, _}} -> ok
    after 0 ->
        kill(OsPid),
        _ = is_list(erlang:port_info(Port)) andalso wait_for_exit(Port, ?EXIT_TIMEOUT_MS),
        ok
    end.

%% @doc End the OS process of a worker whose port is closed or about to be. The pid is still the
%% worker's: nobody but the VM reaps it, and it has not told us yet.
-spec kill(pos_integer()) -> ok.
kill(OsPid) ->
    _ = os:cmd("kill -KILL " ++ integer_to_list(OsPid)),
    ok.

%%% Internal

bound_ms(infinity, _) -> infinity;
bound_ms(_, #{lifespan_timeout := infinity}) -> infinity;
bound_ms(TimeoutMs, #{lifespan_timeout := LifespanMs}) ->
    TimeoutMs + LifespanMs + ?EXIT_TIMEOUT_MS.

start_timer(Ms) ->
    _ = erlang:start_timer(Ms, self(), stop),
    ok.

wait_for_exit(Port, TimeoutMs) ->
    receive
        {Port, {exit_status, Status}} ->
            %% Seen again by end_process/2.
            self() ! {Port, {exit_status, Status}},
            ok
    after TimeoutMs ->
        ok
    end.
