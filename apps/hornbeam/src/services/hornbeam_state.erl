%% SPDX-License-Identifier: Apache-2.0

%% @doc Shared state: one table for all workers of the node and for Erlang code.
%%
%% Keys are Erlang terms; Python's `str' and `bytes' are binaries here. 1 and 1.0 are two keys. A
%% value that Python wrote rests as it was encoded and is decoded only where Erlang code asks for
%% it; integers rest as integers, so that counting is one atomic table operation. Every function
%% is atomic for each key that it touches.
%%
%% ```
%% true = hornbeam_state:add(<<"lock:7">>, self, 5000),
%% {ok, 1} = hornbeam_state:incr(<<"hits">>),
%% {ok, [c, b, a]} = hornbeam_state:update(<<"last">>, fun(L) -> [c | L] end, [b, a]),
%% [<<"hits">>] = hornbeam_state:keys(<<"hi">>).
%% '''
%%
%% A write that would take more than `state_max_memory' of the application's environment gives
%% `{error, {state_full, Facts}}'; nothing is ever thrown out to make room. The tables belong to the
%% application's own process and so outlive every process of the supervision tree; this process
%% only sweeps expired rows, which readers no longer see anyway.
-module(hornbeam_state).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

%% API
-export([get/1]).
-export([get/2]).
-export([get_multi/1]).
-export([set/2]).
-export([set/3]).
-export([set_multi/1]).
-export([set_multi/2]).
-export([add/2]).
-export([add/3]).
-export([cas/3]).
-export([pop/1]).
-export([pop/2]).
-export([update/2]).
-export([update/3]).
-export([incr/1]).
-export([incr/2]).
-export([decr/1]).
-export([decr/2]).
-export([delete/1]).
-export([keys/0]).
-export([keys/1]).
-export([info/0]).

%% internal
-export([create_table/1]).
-export([start_link/0]).
-export([get_encoded/1]).
-export([pop_encoded/1]).
-export([cas_encoded/3]).
-export([from_encoded/1]).

%% gen_server
-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).

-export_type([key/0, ttl_ms/0, full/0, info/0]).

-type key() :: term().

-type ttl_ms() :: hornbeam_state_table:ttl_ms().
%% Milliseconds that the value is to be kept; `undefined' is for ever.

-type full() :: hornbeam_state_table:full().
%% Why nothing was written: `limit_bytes' is what `state_max_memory' says.

-type info() :: #{
    keys := non_neg_integer(),
    %% Rows, with those that have expired and are not swept yet.
    memory_bytes := non_neg_integer(),
    %% What keys and values take, with an estimate of what the tables take beside them.
    limit_bytes := pos_integer() | infinity,
    %% The option `state_max_memory'.
    expired := non_neg_integer()
    %% Rows swept since the start.
}.

-define(SWEEP_MS, 1000).

-define(IS_TTL(TtlMs), (TtlMs =:= undefined orelse is_integer(TtlMs) andalso TtlMs >= 0)).

%%% API

%% @doc The value of `Key', decoded; `undefined' when there is none.
%%
%% Raises `{unknown_atom, #{text}}' where Python put an atom in it that this node does not know.
-spec get(key()) -> term().
get(Key) ->
    get(Key, undefined).

%% @doc The same with a default.
-spec get(key(), Default) -> term() | Default.
get(Key, Default) ->
    default(hornbeam_state_table:get(name(Key)), Default).

%% @doc Those of the keys that are there, with their values.
-spec get_multi([key()]) -> #{key() => term()}.
get_multi(Keys) ->
    Found = [{Key, hornbeam_state_table:get(name(Key))} || Key <- Keys],
    maps:from_list([{Key, to_term(Value)} || {Key, {ok, Value}} <- Found]).

%% @doc Set `Key' for ever.
-spec set(key(), term()) -> ok | {error, full()}.
set(Key, Value) ->
    set(Key, Value, undefined).

%% @doc Set `Key' for `TtlMs' milliseconds.
-spec set(key(), term(), ttl_ms()) -> ok | {error, full()}.
set(Key, Value, TtlMs) when ?IS_TTL(TtlMs) ->
    hornbeam_state_table:put(name(Key), from_term(Value), TtlMs).

%% @equiv set_multi(Pairs, undefined)
-spec set_multi(#{key() => term()} | [{key(), term()}]) -> ok | {error, full()}.
set_multi(Pairs) ->
    set_multi(Pairs, undefined).

%% @doc Set several keys: all of them, or none where that would take too much memory.
-spec set_multi(#{key() => term()} | [{key(), term()}], ttl_ms()) -> ok | {error, full()}.
set_multi(Pairs, TtlMs) when is_map(Pairs) ->
    set_multi(maps:to_list(Pairs), TtlMs);
set_multi(Pairs, TtlMs) when ?IS_TTL(TtlMs) ->
    Rows = [{name(Key), from_term(Value)} || {Key, Value} <- Pairs],
    hornbeam_state_table:put_all(Rows, TtlMs).

%% @equiv add(Key, Value, undefined)
-spec add(key(), term()) -> boolean() | {error, full()}.
add(Key, Value) ->
    add(Key, Value, undefined).

%% @doc Set `Key' if there is nothing under it; whether that was so.
-spec add(key(), term(), ttl_ms()) -> boolean() | {error, full()}.
add(Key, Value, TtlMs) when ?IS_TTL(TtlMs) ->
    hornbeam_state_table:add(name(Key), from_term(Value), TtlMs).

%% @doc Set `Key' to `New' if its value is exactly `Expected'; whether that was so. The value is
%% kept as long as the one before would have been.
-spec cas(key(), Expected :: term(), New :: term()) -> boolean() | {error, full()}.
cas(Key, Expected, New) ->
    cas_encoded(name(Key), from_term(Expected), from_term(New)).

%% @doc Take `Key' away; its value, or `undefined'. Of those who try at once one gets it.
-spec pop(key()) -> term().
pop(Key) ->
    pop(Key, undefined).

%% @doc The same with a default.
-spec pop(key(), Default) -> term() | Default.
pop(Key, Default) ->
    default(hornbeam_state_table:take(name(Key)), Default).

%% @equiv update(Key, Fun, undefined)
-spec update(key(), fun((term()) -> term())) -> {ok, term()} | {error, full()}.
update(Key, Fun) ->
    update(Key, Fun, undefined).

%% @doc Set `Key' to what `Fun' makes of its value, or of `Default'; the new value.
%%
%% `Fun' runs in the caller and once more whenever another process has changed the value meanwhile,
%% so it should do nothing else. The value is kept as long as the one before would have been.
-spec update(key(), fun((term()) -> term()), Default :: term()) -> {ok, term()} | {error, full()}.
update(Key, Fun, Default) when is_function(Fun, 1) ->
    Decide = fun(Seen) -> {put, from_term(Fun(default(Seen, Default)))} end,
    case hornbeam_state_table:exchange(name(Key), Decide) of
        {ok, Value} -> {ok, to_term(Value)};
        {error, _} = Error -> Error
    end.

%% @equiv incr(Key, 1)
-spec incr(key()) -> {ok, integer()} | {error, not_an_integer | full()}.
incr(Key) ->
    incr(Key, 1).

%% @doc Add to the integer under `Key', which counts as 0 when there is none; the new value.
-spec incr(key(), integer()) -> {ok, integer()} | {error, not_an_integer | full()}.
incr(Key, Delta) when is_integer(Delta) ->
    hornbeam_state_table:incr(name(Key), Delta).

%% @equiv decr(Key, 1)
-spec decr(key()) -> {ok, integer()} | {error, not_an_integer | full()}.
decr(Key) ->
    incr(Key, -1).

%% @doc Subtract from the integer under `Key'; otherwise as {@link incr/2}.
-spec decr(key(), integer()) -> {ok, integer()} | {error, not_an_integer | full()}.
decr(Key, Delta) when is_integer(Delta) ->
    incr(Key, -Delta).

%% @doc Remove `Key'; whether it was there.
-spec delete(key()) -> boolean().
delete(Key) ->
    hornbeam_state_table:take(name(Key)) =/= none.

%% @doc All keys.
-spec keys() -> [key()].
keys() ->
    keys(undefined).

%% @doc The keys that are binaries with that prefix, in order; the cost grows with what is found,
%% not with the table. `undefined' stands for all keys.
-spec keys(Prefix :: binary() | undefined) -> [key()].
keys(Prefix) when is_binary(Prefix); Prefix =:= undefined ->
    [hornbeam_state_table:key(Name) || Name <- hornbeam_state_table:names(Prefix)].

%% @doc How much there is.
-spec info() -> info().
info() ->
    hornbeam_state_table:info().

%%% For the workers

%% @private The caller owns the tables.
-spec create_table(LimitBytes :: pos_integer() | infinity) -> ok.
create_table(LimitBytes) ->
    hornbeam_state_table:create(LimitBytes).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @private As `get/1', but as Python wants it: encoded.
-spec get_encoded(hornbeam_state_table:name()) -> hornbeam_blob:blob() | undefined.
get_encoded(Name) ->
    to_encoded(hornbeam_state_table:get(Name)).

%% @private As `pop/1', encoded.
-spec pop_encoded(hornbeam_state_table:name()) -> hornbeam_blob:blob() | undefined.
pop_encoded(Name) ->
    to_encoded(hornbeam_state_table:take(Name)).

%% @private As `cas/3', with values as the table has them.
-spec cas_encoded(hornbeam_state_table:name(), hornbeam_state_table:value(),
                  hornbeam_state_table:value()) -> boolean() | {error, full()}.
cas_encoded(Name, Expected, New) ->
    Decide = fun
        ({ok, Value}) ->
            case is_same(Value, Expected) of
                true -> {put, New};
                false -> keep
            end;
        (none) ->
            keep
    end,
    case hornbeam_state_table:exchange(Name, Decide) of
        {ok, _} -> true;
        kept -> false;
        {error, _} = Error -> Error
    end.

%% @private A value that Python encoded, as the table has it.
-spec from_encoded(hornbeam_blob:blob()) -> hornbeam_state_table:value().
from_encoded(<<131, Tag, _/binary>> = Blob)
        when Tag =:= 97; Tag =:= 98; Tag =:= 110; Tag =:= 111 ->
    %% SMALL_INTEGER_EXT, INTEGER_EXT, SMALL_BIG_EXT, LARGE_BIG_EXT
    binary_to_term(Blob, [safe]);
from_encoded(Blob) ->
    %% Not a part of the packet that it came in.
    binary:copy(Blob).

%%% gen_server

-spec init([]) -> {ok, undefined}.
init([]) ->
    _ = erlang:start_timer(?SWEEP_MS, self(), sweep),
    {ok, undefined}.

-spec handle_call(term(), gen_server:from(), undefined) -> no_return().
handle_call(Request, _From, _State) ->
    error({unexpected_call, Request}).

-spec handle_cast(term(), undefined) -> no_return().
handle_cast(Request, _State) ->
    error({unexpected_cast, Request}).

-spec handle_info(term(), undefined) -> {noreply, undefined}.
handle_info({timeout, _, sweep}, State) ->
    _ = hornbeam_state_table:sweep(),
    _ = erlang:start_timer(?SWEEP_MS, self(), sweep),
    {noreply, State};
handle_info(Message, State) ->
    ?LOG_WARNING(#{what => unexpected_message, message => Message}),
    {noreply, State}.

%%% Internal

name(Key) ->
    hornbeam_state_table:name(Key).

from_term(Value) when is_integer(Value) -> Value;
from_term(Value) -> hornbeam_blob:encode(Value).

to_term(Value) when is_integer(Value) -> Value;
to_term(Blob) ->
    case hornbeam_blob:decode(Blob) of
        {ok, Value} -> Value;
        {error, Reason} -> error(Reason)
    end.

to_encoded({ok, Value}) when is_integer(Value) -> hornbeam_blob:encode(Value);
to_encoded({ok, Blob}) -> Blob;
to_encoded(none) -> undefined.

default({ok, Value}, _) -> to_term(Value);
default(none, Default) -> Default.

%% One term may have more than one encoding: Python and Erlang write maps in their own orders.
is_same(Value, Value) ->
    true;
is_same(Value, Expected) when is_binary(Value), is_binary(Expected) ->
    case {hornbeam_blob:decode(Value), hornbeam_blob:decode(Expected)} of
        {{ok, Term}, {ok, Term}} -> true;
        _ -> false
    end;
is_same(_, _) ->
    false.
