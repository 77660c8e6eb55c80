%% SPDX-License-Identifier: Apache-2.0

%% @private Ends connections that are idle for too long, or take too long over a request head.
%%
%% Cowboy has one timer for both, from the end of one response to the end of the next request's
%% head. Here they are told apart, once a second, by what the socket has received since the last
%% request ended: nothing means idle (`keepalive'), something is a head that drips in
%% (`header_timeout'), and a lot of something is a head that never ends. Before a connection is
%% closed it looks whether that is so (hornbeam_late_head): bytes may have come before the first
%% sweep, and not all bytes are of a head. One process for all connections instead of timers that
%% would have to be started and stopped for each request.
%%
%% Connections register themselves and never unregister: the sweep drops those that are dead.
-module(hornbeam_reaper).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

%% API
-export([new_table/0]).
-export([start_link/2]).
-export([register/2]).
-export([connections/1]).
-export([finish_all/1]).
-export([decide/3]).

%% gen_server
-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).

-export_type([table/0, limits/0, observed/0]).

-type table() :: ets:tid().
%% Rows: {Pid, Socket, Transport, activity(), mark()}. Public: connections insert their own row;
%% only the reaper changes or deletes rows.

-type limits() :: #{keepalive := timeout(), header_timeout := timeout(), max_head := pos_integer()}.

-type mark() :: {Total :: non_neg_integer(), Received :: non_neg_integer(), SinceMs :: integer(),
                 Head :: unseen | absent | begun}.
%% What the last sweep saw: how many streams there had been, bytes received when the connection was
%% first seen idle, from when on the time of the next head counts, and whether any of it is there:
%% `absent' if the connection has looked when that time was over.

-type observed() :: #{now_ms := integer(), total := non_neg_integer(),
                      idle_since_ms := integer(), received := non_neg_integer(),
                      has_begun := boolean()}.

-record(state, {
    table :: table(),
    limits :: limits(),
    %% Of the server's own answers.
    defaults :: hornbeam_response:defaults()
}).

-define(SWEEP_MS, 1000).

%%% API

%% @doc The table belongs to its maker, the listener: connections outlive a reaper.
-spec new_table() -> table().
new_table() ->
    ets:new(?MODULE, [public, {write_concurrency, true}]).

-spec start_link(hornbeam_config:config(), table()) -> {ok, pid()} | {error, term()}.
start_link(Config, Table) ->
    gen_server:start_link(?MODULE, {Config, Table}, []).

%% @doc Put the calling connection under watch.
-spec register(table(), hornbeam_connection:context()) -> ok.
register(Table, #{socket := Socket, transport := Transport, activity := Activity}) ->
    {_, _, IdleSinceMs} = hornbeam_connection:activity(Activity),
    true = ets:insert(Table, {self(), Socket, Transport, Activity, {0, 0, IdleSinceMs, unseen}}),
    ok.

%% @doc Number of connections that are open.
-spec connections(table()) -> non_neg_integer().
connections(Table) ->
    length(alive(Table)).

%% @doc Ask all connections to finish: each ends after the response that it is sending, at once if
%% there is none. The pids that were asked.
-spec finish_all(table()) -> [pid()].
finish_all(Table) ->
    Rows = alive(Table),
    _ = [hornbeam_connection:finish(watched(Row)) || Row <- Rows],
    [element(1, Row) || Row <- Rows].

%% @doc What to do with a connection that has no stream under way: it may be asked to look for
%% itself, as a part of the time is over. Pure.
-spec decide(limits(), mark(), observed()) ->
    {keep, mark()} | {look, hornbeam_late_head:due(), mark()}.
decide(_Limits, {Total0, _, _, _}, #{total := Total} = Observed) when Total =/= Total0 ->
    %% Idle anew since the last sweep.
    #{now_ms := NowMs, received := Received} = Observed,
    {keep, {Total, Received, NowMs, unseen}};
decide(Limits, {_, Received, _, Head} = Mark, Observed = #{received := Received})
        when Head =/= begun ->
    case Observed of
        #{has_begun := true} -> decide_begun(Limits, setelement(4, Mark, begun), Observed);
        #{has_begun := false} -> decide_idle(Limits, Mark, Observed)
    end;
decide(Limits, {_, _, _, begun} = Mark, Observed) ->
    decide_begun(Limits, Mark, Observed);
%% The first head has its time from when the connection was made.
decide(Limits, {0, Received, SinceMs, _}, Observed) ->
    decide_begun(Limits, {0, Received, SinceMs, begun}, Observed);
decide(Limits, {Total, Received, _, _}, Observed = #{now_ms := NowMs}) ->
    decide_begun(Limits, {Total, Received, NowMs, begun}, Observed).

decide_begun(#{max_head := MaxHead}, {_, Received0, _, _} = Mark, #{received := Received})
        when Received - Received0 > MaxHead ->
    {look, size, Mark};
decide_begun(Limits, Mark, Observed) ->
    case is_head_due(Limits, Mark, Observed) of
        true -> {look, both, Mark};
        false -> {keep, Mark}
    end.

decide_idle(Limits, {Total, Received, SinceMs, Head} = Mark, Observed) ->
    case {is_idle_due(Limits, Total, Observed), is_head_due(Limits, Mark, Observed)} of
        {true, true} -> {look, both, Mark};
        {true, false} -> {look, idle, Mark};
        {false, true} when Head =:= unseen -> {look, head, {Total, Received, SinceMs, absent}};
        {false, _} -> {keep, Mark}
    end.

%% `infinity' is above every number in Erlang's order of terms.
is_head_due(#{header_timeout := HeaderMs}, {_, _, SinceMs, _}, #{now_ms := NowMs}) ->
    NowMs - SinceMs >= HeaderMs.

is_idle_due(Limits, Total, #{now_ms := NowMs, idle_since_ms := IdleSinceMs}) ->
    #{keepalive := KeepaliveMs, header_timeout := HeaderMs} = Limits,
    LimitMs = case Total of
        0 -> HeaderMs;
        _ -> KeepaliveMs
    end,
    NowMs - IdleSinceMs >= LimitMs.

%%% gen_server

-spec init({hornbeam_config:config(), table()}) -> {ok, #state{}}.
init({Config, Table}) ->
    #{max_request_line_size := LineSize, max_header_size := HeaderSize} = Config,
    Limits = (maps:with([keepalive, header_timeout], Config))#{
        %% A pipelined request that follows a head in the same read counts as well: a margin.
        max_head => 2 * (LineSize + HeaderSize) + 65536
    },
    _ = erlang:start_timer(?SWEEP_MS, self(), sweep),
    {ok, #state{table = Table, limits = Limits, defaults = hornbeam_response:defaults(Config)}}.

-spec handle_call(term(), gen_server:from(), #state{}) -> no_return().
handle_call(Request, _From, _State) ->
    error({unexpected_call, Request}).

-spec handle_cast(term(), #state{}) -> no_return().
handle_cast(Request, _State) ->
    error({unexpected_cast, Request}).

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({timeout, _, sweep}, State = #state{table = Table}) ->
    NowMs = erlang:monotonic_time(millisecond),
    _ = [sweep(Row, NowMs, State) || Row <- ets:tab2list(Table)],
    _ = erlang:start_timer(?SWEEP_MS, self(), sweep),
    {noreply, State};
%% A connection is collected, or has gone.
handle_info({garbage_collect, _, _}, State) ->
    {noreply, State};
handle_info(Message, State) ->
    ?LOG_WARNING(#{what => unexpected_message, message => Message}),
    {noreply, State}.

%%% Internal

sweep({Pid, Socket, Transport, Activity, Mark0} = Row, NowMs, State) ->
    #state{table = Table, limits = Limits} = State,
    case is_process_alive(Pid) of
        false ->
            ets:delete(Table, Pid);
        true ->
            case hornbeam_connection:activity(Activity) of
                {0, Total, IdleSinceMs} ->
                    Received = received(hornbeam_connection:protocol(Activity), Transport, Socket),
                    Observed = #{now_ms => NowMs, total => Total, idle_since_ms => IdleSinceMs,
                                 received => Received,
                                 has_begun => hornbeam_connection:has_head_begun(Activity)},
                    act(decide(Limits, Mark0, Observed), Row, Observed, State);
                _ ->
                    true
            end
    end.

act({keep, Mark}, {Pid, _, _, _, _}, Observed, #state{table = Table}) ->
    _ = has_calmed_down(Observed) andalso
        erlang:garbage_collect(Pid, [{async, Pid}, {type, major}]),
    ets:update_element(Table, Pid, {5, Mark});
%% It may be that it does not end now, so it stays under watch.
act({look, Due, {Total, _, _, _} = Mark}, {Pid, _, _, _, _} = Row, _, State) ->
    #state{table = Table, defaults = Defaults} = State,
    ok = hornbeam_late_head:check(watched(Row), Total, Due, Defaults),
    ets:update_element(Table, Pid, {5, Mark}).

watched({Pid, Socket, Transport, Activity, _}) ->
    {Pid, Socket, Transport, Activity}.

%% In one sweep of those that see it idle: what its requests have left is freed once, and not for
%% each of them where they come in quick succession.
has_calmed_down(#{now_ms := NowMs, idle_since_ms := IdleSinceMs}) ->
    NowMs - IdleSinceMs >= ?SWEEP_MS andalso NowMs - IdleSinceMs < 2 * ?SWEEP_MS.

%% What comes on an HTTP/2 connection that has no streams is pings and the like, not the head of the
%% next request: it is idle.
received(http2, _, _) ->
    0;
received(http1, Transport, Socket) ->
    case Transport:getstat(Socket, [recv_oct]) of
        {ok, [{recv_oct, Bytes}]} -> Bytes;
        {error, _} -> 0
    end.

alive(Table) ->
    [Row || Row <- ets:tab2list(Table), is_process_alive(element(1, Row))].
