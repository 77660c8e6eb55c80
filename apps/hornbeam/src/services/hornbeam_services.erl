%% SPDX-License-Identifier: Apache-2.0

%% @private What workers may call: the functions of `docs/protocol.md', each a clause.
%%
%% Runs inside the worker's own Erlang process, so everything here answers at once.
-module(hornbeam_services).

%% API
-export([call/2]).

-export_type([result/0]).

-type result() :: {ok, term()} | {error, {atom(), map()}}.

-spec call(Function :: atom(), Args :: tuple()) -> result().
call(state_get, {Key}) ->
    {ok, hornbeam_state:get_encoded(Key)};
call(state_set, {Key, Encoded, TtlMs})
        when is_binary(Encoded), TtlMs =:= undefined orelse is_integer(TtlMs) andalso TtlMs >= 0 ->
    ok = hornbeam_state:set_encoded(Key, Encoded, TtlMs),
    {ok, true};
call(state_incr, {Key, Delta}) when is_integer(Delta) ->
    case hornbeam_state:incr(Key, Delta) of
        {ok, Value} -> {ok, Value};
        {error, not_an_integer} -> {error, {not_an_integer, #{}}}
    end;
call(state_delete, {Key}) ->
    {ok, hornbeam_state:delete(Key)};
call(Function, Args) ->
    {error, {unknown_function, #{function => Function, arity => tuple_size(Args)}}}.
