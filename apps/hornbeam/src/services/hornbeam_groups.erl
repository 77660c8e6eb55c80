%% SPDX-License-Identifier: Apache-2.0

%% @private Groups of processes on all connected nodes, which outlive the processes that keep them.
%%
%% The groups are those of {@link pg}, and are read there. A scope of `pg' that crashes has
%% forgotten the members of its node, and so have all other nodes. So this process writes down who
%% has joined what, and has them join again when the scope is back. It is the only one that joins
%% and leaves; its table belongs to the application, and it can itself be started anew.
-module(hornbeam_groups).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

%% API
-export([child_specs/1]).
-export([create_table/0]).
-export([start_link/0]).
-export([start_scope/1]).
-export([join/3]).
-export([leave/3]).
-export([is_member/3]).
-export([groups_of/2]).
-export([which_groups/1]).

%% gen_server
-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).

-export_type([scope/0, group/0]).

-type scope() :: atom().
-type group() :: term().

%% The members of this node: `{{Pid, Scope, Group}, Times}'. Ordered, so that all of a process can
%% be found by its pid.
-define(TABLE, ?MODULE).

%% The monitors of the processes that are members of anything.
-type state() :: #{pid() => Monitor :: reference()}.

%%% API

%% @doc The scopes, and behind them this process.
-spec child_specs([scope()]) -> [supervisor:child_spec()].
child_specs(Scopes) ->
    [#{id => Scope, start => {?MODULE, start_scope, [Scope]}} || Scope <- Scopes] ++
        [#{id => ?MODULE, start => {?MODULE, start_link, []}}].

%% @doc The caller owns the table.
-spec create_table() -> ok.
create_table() ->
    _ = ets:new(?TABLE, [named_table, public, ordered_set, {read_concurrency, true}]),
    ok.

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc Started by the supervisor, for the first time or after a crash.
-spec start_scope(scope()) -> {ok, pid()} | {error, term()}.
start_scope(Scope) ->
    Result = pg:start_link(Scope),
    ok = gen_server:cast(?MODULE, {restore, Scope}),
    Result.

%% @doc Make a process of this node a member, once more if it is one.
-spec join(scope(), group(), pid()) -> ok.
join(Scope, Group, Pid) when node(Pid) =:= node() ->
    gen_server:call(?MODULE, {join, Scope, Group, Pid}, infinity).

%% @doc The opposite of one `join/3'.
-spec leave(scope(), group(), pid()) -> ok | not_joined.
leave(Scope, Group, Pid) ->
    gen_server:call(?MODULE, {leave, Scope, Group, Pid}, infinity).

%% @doc Whether a process of this node is a member.
-spec is_member(scope(), group(), pid()) -> boolean().
is_member(Scope, Group, Pid) ->
    ets:member(?TABLE, {Pid, Scope, Group}).

%% @doc What a process of this node is a member of.
-spec groups_of(scope(), pid()) -> [group()].
groups_of(Scope, Pid) ->
    [Group || [Group] <- ets:match(?TABLE, {{Pid, Scope, '$1'}, '_'})].

%% @doc The groups that have members on any node; none while the scope is being restarted.
-spec which_groups(scope()) -> [group()].
which_groups(Scope) ->
    try
        pg:which_groups(Scope)
    catch
        error:badarg -> []
    end.

%%% gen_server

-spec init([]) -> {ok, state()}.
init([]) ->
    Members = ets:tab2list(?TABLE),
    lists:foreach(fun restore/1, Members),
    {ok, lists:foldl(fun({{Pid, _, _}, _}, State) -> watch(Pid, State) end, #{}, Members)}.

-spec handle_call(term(), gen_server:from(), state()) -> {reply, ok | not_joined, state()}.
handle_call({join, Scope, Group, Pid}, _From, State) ->
    _ = ets:update_counter(?TABLE, {Pid, Scope, Group}, 1, {{Pid, Scope, Group}, 0}),
    _ = in_scope(fun() -> pg:join(Scope, Group, Pid) end),
    {reply, ok, watch(Pid, State)};
handle_call({leave, Scope, Group, Pid}, _From, State) ->
    Key = {Pid, Scope, Group},
    case ets:lookup(?TABLE, Key) of
        [] ->
            {reply, not_joined, State};
        [{_, Times}] ->
            true = case Times of
                1 -> ets:delete(?TABLE, Key);
                _ -> ets:insert(?TABLE, {Key, Times - 1})
            end,
            _ = in_scope(fun() -> pg:leave(Scope, Group, Pid) end),
            {reply, ok, unwatch(Pid, State)}
    end.

-spec handle_cast({restore, scope()}, state()) -> {noreply, state()}.
handle_cast({restore, Scope}, State) ->
    lists:foreach(fun restore/1, ets:match_object(?TABLE, {{'_', Scope, '_'}, '_'})),
    {noreply, State}.

-spec handle_info(term(), state()) -> {noreply, state()}.
%% The scope learns of it by itself.
handle_info({'DOWN', _, process, Pid, _}, State) ->
    true = ets:match_delete(?TABLE, {{Pid, '_', '_'}, '_'}),
    {noreply, maps:remove(Pid, State)};
handle_info(Message, State) ->
    ?LOG_WARNING(#{what => unexpected_message, message => Message}),
    {noreply, State}.

%%% Internal

watch(Pid, State) when is_map_key(Pid, State) -> State;
watch(Pid, State) -> State#{Pid => monitor(process, Pid)}.

unwatch(Pid, State) ->
    case ets:next(?TABLE, {Pid, 0, 0}) of
        {Pid, _, _} ->
            State;
        _ ->
            {Monitor, Rest} = maps:take(Pid, State),
            true = demonitor(Monitor, [flush]),
            Rest
    end.

%% What is there already stays: the scope may have been restarted before the last of these joined.
restore({{Pid, Scope, Group}, Times}) ->
    There = length([Member || Member <- pg:get_local_members(Scope, Group), Member =:= Pid]),
    Missing = lists:duplicate(max(0, Times - There), Pid),
    _ = Missing =/= [] andalso in_scope(fun() -> pg:join(Scope, Group, Missing) end),
    ok.

%% A scope that is not there is being restarted, and `restore' follows.
in_scope(Change) ->
    try
        Change()
    catch
        exit:_ -> ok
    end.
