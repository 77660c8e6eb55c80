%% SPDX-License-Identifier: Apache-2.0
-module(prop_config).

-include("hornbeam_proper.hrl").

-import(proper_types, [any/0, atom/0, binary/0, integer/0, integer/2, list/1, oneof/1, string/0]).

-export([prop_any_value_is_checked/0]).
-export([prop_checked_values_pass_again/0]).
-export([prop_every_error_is_reported_once_and_prints/0]).
-export([prop_any_reason_prints/0]).

%% No value of any option crashes the check.
prop_any_value_is_checked() ->
    ?FORALL({Key, Value}, {key(), value()}, begin
        case hornbeam_option:check(Key, Value) of
            {ok, _} -> true;
            {error, Expected} -> is_binary(unicode:characters_to_binary(Expected))
        end
    end).

%% What a check made of a value is a legal value again, and stays as it is.
prop_checked_values_pass_again() ->
    ?FORALL({Key, Value}, {key_with_stable_form(), value()}, begin
        case hornbeam_option:check(Key, Value) of
            {ok, Checked} -> {ok, Checked} =:= hornbeam_option:check(Key, Checked);
            {error, _} -> true
        end
    end).

%% Each wrong option is in the answer exactly once, in order, and no right one is.
prop_every_error_is_reported_once_and_prints() ->
    ?FORALL(Options, map_of(key(), value()), begin
        case hornbeam_config:validate("app:app", Options) of
            {ok, Config} ->
                maps:keys(hornbeam_config:defaults()) =:= maps:keys(maps:remove(app, Config));
            {error, {invalid_options, #{errors := Errors}} = Reason} ->
                Keys = [Key || #{key := Key} <- Errors],
                Keys =:= lists:usort(Keys) andalso
                    is_binary(unicode:characters_to_binary(hornbeam_error:format(Reason)))
        end
    end).

%% Any term prints as a reason.
prop_any_reason_prints() ->
    Name = oneof([app_import_failed, invalid_options, worker_exited, atom()]),
    Facts = map_of(oneof([app, message, traceback, errors, status, atom()]), value()),
    ?FORALL(
        Reason,
        oneof([{Name, Facts}, value()]),
        is_binary(unicode:characters_to_binary(hornbeam_error:format(Reason)))
    ).

map_of(Key, Value) ->
    ?LET(Pairs, list({Key, Value}), maps:from_list(Pairs)).

key() ->
    oneof([oneof(maps:keys(hornbeam_config:defaults())), atom(), any()]).

%% The addresses and networks that `bind' and `proxy_headers' become are no text any more.
key_with_stable_form() ->
    oneof(maps:keys(maps:without([bind, proxy_headers, ssl_redirect], hornbeam_config:defaults()))).

value() ->
    oneof([
        any(),
        integer(),
        integer(1, 100000),
        oneof([infinity, undefined, auto, on, off, true, false, asgi, uvloop, json]),
        oneof(["", "/", "/a//", "a", "a=b", <<"/x"/utf8>>, <<255>>]),
        oneof(["127.0.0.1:0", ":80", "[::1]:1", "unix:/a", ["127.0.0.1:1", ":2"]]),
        list(string()),
        list(binary()),
        list({string(), oneof([string(), false])}),
        map_of(string(), binary())
    ]).
